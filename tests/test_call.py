"""The Python call: the same runs as the command line's, one class of errors."""

from __future__ import annotations

from pathlib import Path

import pytest

import lrexp


def test_composed_and_run_with_overrides(tiny: list[str], tmp_path: Path) -> None:
    spec = lrexp.compose(tiny)
    first = lrexp.run(spec, ["seed=2"], output_dir=tmp_path / "one")
    assert first["status"] == "finished" and first["seed"] == 2 and first["folder"] == str(tmp_path / "one")
    again = lrexp.run(tmp_path / "one" / "spec.yaml", output_dir=tmp_path / "two")
    assert again["metrics"] == first["metrics"] and again["spec_hash"] == first["spec_hash"]
    assert (
        lrexp.run(spec, ["seed=2"], output_dir=tmp_path / "one")["costs"] == first["costs"]
    )  # recognised, not run twice


@pytest.mark.parametrize("words", [["method=pisa"], ["output_dir=x"], ["method.r=0"]])
def test_what_is_wrong_is_one_class_of_errors(words: list[str], tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(lrexp.LrexpError):
        lrexp.run(lrexp.compose(tiny), words, output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_budget_is_spent_before_the_spec_is_frozen() -> None:
    words = ["method=said", "hardware=cpu"]
    spec = lrexp.compose([*words, "budget.trainable_parameters=9e4"])
    assert spec == lrexp.compose([*words, "method.intrinsic_dimension=90000"])
    with pytest.raises(lrexp.LrexpError, match=r"the budget sets method\.intrinsic_dimension"):
        lrexp.run(spec, ["budget.memory=1GB", "method.intrinsic_dimension=5"])
