import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrexp.commands.table import main
from lrexp.spec.errors import InputError
from tests.report.made_up import write_failed, write_run, write_spec


def test_it_prints_a_table_of_several_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a" / "lora-1", 1, 0.7)
    write_run(tmp_path / "b" / "lora-2", 2, 0.8)
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["n"] == 2 and row["mean"] == pytest.approx(0.75)
    for format in ("rich", "md", "latex", "csv", "html"):
        assert main([f"--format={format}", str(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert "lora" in out and "accuracy" in out and err == ""


def test_the_best_rate_of_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rate, validation, test in ((1e-3, 0.8, 0.7), (3e-3, 0.6, 0.9)):
        metrics = {"accuracy": test, "validation_accuracy": validation}
        write_run(tmp_path / f"{rate}", 1, result={"metrics": metrics}, training__learning_rate=rate)
    assert main([str(tmp_path), "--tuned", "training.learning_rate", "--format", "md"]) == 0
    out = capsys.readouterr().out
    assert "0.7000" in out and "0.9000" not in out and "| learning_rate |" in out and "0.001" in out
    assert "- best training.learning_rate of each row, by the mean on data that are held out for it" in out


def test_rows_that_failed_are_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_failed(tmp_path / "1")
    write_spec(tmp_path / "2", 2)
    assert main([str(tmp_path)]) == 0
    assert "the loss is NaN" in capsys.readouterr().out


def test_damaged_files_beside_sound_ones_are_shown_and_end_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "1")
    (write_run(tmp_path / "2", 2) / "result.json").write_text("{")
    (write_run(tmp_path / "3", 3) / "spec.yaml").write_text("a: [")
    assert main([str(tmp_path), "--format", "md"]) == 2
    out, err = capsys.readouterr()
    assert "0.7340" in out and "1 damaged" in out and f"{tmp_path / '2'}: result.json: damaged JSON" in out
    assert err == "lrexp table: 2 of 3 runs have damaged files\n"


def test_damaged_files_alone_are_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_run(tmp_path / "1") / "result.json").write_text("{")
    (write_run(tmp_path / "2") / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"1/result\.json: damaged JSON .* \(and 1 more\)$"):
        main([str(tmp_path)])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DIR"),
        (["{run}", "--format", "tex"], "invalid choice: 'tex'"),
        (["{run}", "--formt=md"], "--formt"),
        (["{run}", "nowhere"], "nowhere: no such folder"),
        (["{run}/spec.yaml"], "this is a file"),
        (["{empty}"], "no run in it"),
        (["{run}", "--tuned", "method.r"], "--tuned method.r: the runs do not differ in it"),
        (
            ["{run}", "--baseline", "lra"],
            "--baseline lra: unknown method of the table. Did you mean 'lora'? There: lora",
        ),
        (["{run}", "--rows", "method"], "--rows and --columns go together"),
        (["{run}", "--rows", "method", "--columns", "method"], "--rows and --columns are both method"),
        (["{run}", "--rows", "method", "--columns", "training.leaning_rate"], "Did you mean 'training.learning_rate'?"),
        (["{run}", "--rows", "method", "--columns", "dataset", "--with-paper"], "--with-paper adds a column"),
    ],
)
def test_bad_input_is_answered_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    places = {"run": write_run(tmp_path / "run"), "empty": tmp_path / "empty"}
    places["empty"].mkdir()
    with pytest.raises(InputError) as caught:
        main([argument.format(**places) for argument in arguments])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert (
        out.startswith("lrexp table DIR... [--baseline METHOD] [--tuned KEY] [--rows KEY --columns KEY]")
        and max(map(len, out.splitlines())) <= 120
    )


def test_neither_torch_nor_scipy_is_imported_to_start() -> None:
    code = (
        "import sys, lrexp.commands.table, lrexp.report.row\n"
        "heavy = {'torch', 'scipy', 'numpy', 'rich', 'hydra', 'omegaconf'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.strip() == ""
