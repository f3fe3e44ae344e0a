import subprocess
import sys
from pathlib import Path

import pytest

from lrexp.commands.plot import main
from lrexp.spec.errors import InputError
from tests.report.made_up import write_progress, write_run


def write(place: Path) -> Path:
    for rate, validation in ((1e-3, 0.8), (3e-3, 0.6)):
        for seed in (1, 2, 3):
            metrics = {"accuracy": 0.7 + rate + seed / 100, "validation_accuracy": validation}
            folder = place / f"{rate}-{seed}"
            write_progress(write_run(folder, seed, result={"metrics": metrics}, training__learning_rate=rate), 100)
    return place


@pytest.mark.parametrize("kind", ["curves", "pareto", "rates"])
def test_the_picture_lies_in_the_current_folder_and_is_said(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs")
    for _ in range(2):
        assert main(["runs", "--kind", kind]) == 0
        assert capsys.readouterr().out == f"{kind}.svg\n"
    first = Path(f"{kind}.svg").read_bytes()
    assert main(["runs", "--kind", kind, "-o", "again.svg"]) == 0
    assert Path("again.svg").read_bytes() == first and first.startswith(b"<?xml")


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_the_ending_is_the_format(tmp_path: Path, ending: str, magic: bytes) -> None:
    place = tmp_path / f"a.{ending}"
    assert main([str(write(tmp_path / "runs")), "-o", str(place)]) == 0
    assert place.read_bytes().startswith(magic)


def test_tuned_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [str(write(tmp_path / "runs")), "--kind", "pareto", "-o", str(tmp_path / "a.svg")]
    assert main(line) == 0
    assert "side by side" in capsys.readouterr().err
    assert main([*line, "--tuned", "training.learning_rate"]) == 0
    assert capsys.readouterr().err == ""  # one point is left


def test_many_rows_get_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for r in range(1, 14):
        write_progress(write_run(tmp_path / f"{r}", method__r=r), 30)
    assert main([str(tmp_path), "-o", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().err.startswith("lrexp plot: 13 rows in one panel; --tuned KEY draws")


def test_damaged_runs_are_left_out_and_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write(tmp_path / "runs")
    damaged = write_run(tmp_path / "runs" / "damaged")
    (damaged / "result.json").write_text("{")
    assert main([str(runs), "-o", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err == "lrexp plot: 1 of 7 runs have damaged files\n"
    assert (tmp_path / "a.png").exists()
    with pytest.raises(InputError, match=r"result\.json: damaged JSON"):
        main([str(damaged), "-o", str(tmp_path / "b.png")])
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DIR"),
        (["{runs}", "--kind", "bars"], "invalid choice: 'bars'"),
        (["{runs}", "--kind", "pareto", "--x", "money"], "invalid choice: 'money'"),
        (["{runs}", "--x", "train_seconds"], "--x train_seconds goes with --kind pareto, this is curves"),
        (["{runs}", "-o", "a.jpg"], "-o a.jpg: a picture ends with .svg, .pdf or .png"),
        (["{runs}", "-o", "curves"], "a picture ends with"),
        (["{runs}", "-o", "nowhere/a.svg"], "there is no folder nowhere"),
        (["nowhere"], "nowhere: no such folder"),
        (["{runs}", "--metric", "validation_accuracy"], "unknown name of metrics.jsonl"),
        (["{runs}", "--kind", "pareto", "--metric", "train/loss"], "unknown metric of result.json"),
        (["{runs}", "--tuned", "method.r"], "--tuned method.r: the runs do not differ in it"),
        (["{runs}", "--kind", "rates", "--tuned", "training.learning_rate"], "--kind rates shows them all"),
    ],
)
def test_bad_input_is_answered_in_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = write(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        main([argument.format(runs=runs) for argument in arguments])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [runs]


def test_no_torch_no_window_and_no_matplotlib_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys, lrexp.commands.plot as plot\n"
        "early = {'matplotlib', 'numpy'} & set(sys.modules)\n"
        "plot.main(sys.argv[1:])\n"
        "sys.exit(str(early | ({'torch', 'matplotlib.pyplot'} & set(sys.modules)) or ''))"
    )
    line = [sys.executable, "-c", code, str(write(tmp_path / "runs")), "-o", str(tmp_path / "a.svg")]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert ended.stderr.strip() == ""
