"""A budget is taken out of the words, and what is none is refused in one line."""

from __future__ import annotations

import pytest

from lrexp.spec.budget import Budget, read_bytes, split
from lrexp.spec.errors import InputError


def test_a_budget_is_apart_from_the_other_words() -> None:
    words = ["method=lora", "budget.trainable_parameters=9e6", "seed=2", "budget.memory=22GB"]
    assert split(words) == (Budget(9_000_000, 22 * 10**9), ["method=lora", "seed=2"])
    assert split(["method=lora"]) == (None, ["method=lora"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("budget.parameters=9e6", "Did you mean 'trainable_parameters'?"),
        ("budget=9e6", "budget: unknown key. A budget has: trainable_parameters, memory"),
        ("budget.trainable_parameters=many", "a number of parameters is needed, such as 9e6"),
        ("budget.trainable_parameters=0", "a number of parameters is needed"),
        ("budget.memory=much", "budget.memory=much: a size is needed, such as 24GB"),
    ],
)
def test_what_is_no_budget_is_refused(word: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        split([word])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GB", 24 * 10**9), ("80 GiB", 80 * 2**30), ("1.5gb", 1_500_000_000), ("123", 123), ("2kB", 2000)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert read_bytes(text, "--fits") == count


@pytest.mark.parametrize("text", ["", "GB", "24 Gb/s", "-3GB", "0GB", "24XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--fits: a size is needed, such as 24GB"):
        read_bytes(text, "--fits")
