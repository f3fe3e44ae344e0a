"""The words of a sweep as specs: its parts, their labels, and what they may not mix."""

from __future__ import annotations

import pytest

from lrexp.commands.words import compose_all, read
from lrexp.spec.errors import InputError


def test_parts_are_one_sweep_in_which_no_run_stands_twice() -> None:
    runs, folder = compose_all(
        ["output_dir=there", "seed=1", "+", "method=lora,pissa", "+", "method=lora", "method.r=4,8"]
    )
    assert folder == "there"
    assert [label for _, label in runs] == ["method=lora", "method=pissa", "method=lora method.r=4"]
    assert [spec.method["r"] for spec, _ in runs] == [8, 8, 4]


def test_a_part_without_model_takes_that_of_the_others() -> None:
    with pytest.raises(InputError, match="set model= and dataset= for all of them"):
        compose_all(["+", "method=lora", "+", "method=sltrain"])
    runs, _ = compose_all(["+", "method=lora", "+", "method=sltrain", "model=embedded", "dataset=docmatch"])
    assert len(runs) == 2


def test_one_run_has_no_parts() -> None:
    with pytest.raises(InputError, match="add -m"):
        read(["method=lora", "+", "method=pissa"])
