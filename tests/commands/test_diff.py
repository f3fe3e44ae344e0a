"""Two runs side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lrexp.cli import main
from tests.report.made_up import write_failed, write_progress, write_run, write_spec


def rows(capsys: pytest.CaptureFixture[str], a: Path, b: Path) -> dict[tuple[str, str], dict[str, Any]]:
    assert main(["diff", str(a), str(b), "--format", "json"]) == 0
    return {(row["part"], row["key"]): row for row in json.loads(capsys.readouterr().out)}


def test_keys_metrics_and_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a")
    b = write_run(
        tmp_path / "b", accuracy=0.75, method__r=4, optimizer__eps=1e-6, training__save_steps=20, dataset__path="x",
        result={"costs.step_seconds": 0.0462, "versions.torch": "2.10.0"},
    )  # fmt: skip
    found = rows(capsys, a, b)
    spec = {key: (row["A"], row["B"]) for (part, key), row in found.items() if part == "spec"}
    assert spec == {"method.r": (8, 4), "optimizer.eps": ("(absent)", 1e-6)}
    assert {key for part, key in found if part == "spec, no effect"} == {"training.save_steps", "dataset.path"}
    assert found["metric", "accuracy"]["difference"] == pytest.approx(0.016)
    assert found["metric", "accuracy"]["standard error"] == pytest.approx(0.0121 * 2**0.5)
    assert found["metric", "f1"]["standard error"] is None
    assert found["cost", "step_seconds"]["ratio"] == pytest.approx(2)
    assert (found["version", "torch"]["A"], found["version", "torch"]["B"]) == ("2.9.0", "2.10.0")
    assert ("version", "python") not in found


def test_other_data_is_a_difference_of_the_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", dataset__path="x", provenance__data_fingerprint="ffff")
    found = rows(capsys, a, b)
    assert found["spec", "dataset.path"]["B"] == "x"
    assert found["fingerprint", "data"]["B"] == "ffff"


def test_a_cost_that_one_of_two_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", result={"costs.compile_seconds": 3.0})
    for left, right, cells in ((a, b, (None, 3.0)), (b, a, (3.0, None))):
        row = rows(capsys, left, right)["cost", "compile_seconds"]
        assert (row["A"], row["B"], row["ratio"]) == (*cells, None)


def test_starts_are_told_apart_by_their_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", init_from="there", provenance__init_fingerprint="aaa")
    moved = write_run(tmp_path / "moved", init_from="elsewhere", provenance__init_fingerprint="aaa")
    other = write_run(tmp_path / "other", init_from="elsewhere", provenance__init_fingerprint="bbb")
    assert ("spec, no effect", "init_from") in rows(capsys, a, moved)
    found = rows(capsys, a, other)
    assert ("spec", "init_from") in found and found["fingerprint", "init"]["B"] == "bbb"


def test_equal_specs_are_said_to_be_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    assert main(["diff", str(a), str(b)]) == 0
    assert capsys.readouterr().out.startswith("The specs are equal.\n")
    assert not [key for key in rows(capsys, a, b) if key[0] in ("spec", "spec, no effect", "version", "fingerprint")]
    c = write_run(tmp_path / "c", tracking__name="wandb")
    assert main(["diff", str(a), str(c)]) == 0
    assert "only in what decides no number (1 key)" in capsys.readouterr().out


def test_a_run_that_failed_and_one_under_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, failed = write_run(tmp_path / "a"), write_failed(tmp_path / "b")
    under_way = write_progress(write_spec(tmp_path / "c"), 40)
    assert rows(capsys, a, failed)["run", "status"]["B"] == "failed: the loss is NaN"
    assert rows(capsys, a, failed)["metric", "accuracy"]["difference"] is None
    found = rows(capsys, a, under_way)
    assert found["run", "status"]["B"] == "interrupted, step 40 of 300"
    assert not [key for key in found if key[0] in ("metric", "cost")]


def test_a_spec_file_stands_for_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=2)
    shutil.copy(b / "spec.yaml", tmp_path / "paper.yaml")
    found = rows(capsys, a / "spec.yaml", tmp_path / "paper.yaml")
    assert found["spec", "seed"]["B"] == 2 and found["run", "status"]["B"] == "a spec"
    assert ("metric", "accuracy") in rows(capsys, a / "spec.yaml", b / "spec.yaml")


@pytest.mark.parametrize("format", ["rich", "md", "csv", "json"])
def test_every_format(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", accuracy=0.75, method__name="pissa")
    assert main(["diff", str(a), str(b), "--format", format]) == 0
    out = capsys.readouterr().out
    assert "method.name" in out and "pissa" in out
    assert ("+0.0160 ± 0.0171" in out) == (format in ("rich", "md"))


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "other.yaml").write_text("a: 1\n")
    damaged = write_run(tmp_path / "damaged")
    (damaged / "result.json").write_text("{")
    for wrong in ("empty", "gone", "list.yaml", "other.yaml", "damaged", "spec.yaml"):
        assert main(["diff", str(a), str(tmp_path / wrong)]) == 2, wrong
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1), err
    assert main(["diff", str(a)]) == 2


def test_no_torch(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", method__r=4)
    code = "import sys; from lrexp.cli import main; code = main(sys.argv[1:]); sys.exit('torch' in sys.modules or code)"
    line = [sys.executable, "-c", code, "diff", str(a), str(b)]
    assert subprocess.run(line, capture_output=True, timeout=60).returncode == 0
