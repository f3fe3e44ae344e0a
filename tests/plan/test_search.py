"""The largest size is found by few looks, and lies beside one that does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lrexp.plan.search import search

MOST = 2**20


@pytest.mark.parametrize(
    ("taken", "budget", "size", "looks"),
    [
        (lambda n: 100 + 7 * n, 1000, 128, 4),
        (lambda n: max(500, 100 + 7 * n), 1000, 128, 12),  # flat where the optimizer's step is the peak
        (lambda n: 100 + n * n, 1000, 30, 15),
        (lambda n: 100 + 7 * n, 107, 1, 2),
        (lambda n: 100 + 7 * n, 106, 0, 1),
        (lambda n: 5, 10, MOST, 21),
        (lambda n: 100 + 7 * n if n <= 50 else math.inf, 1000, 50, 12),  # no such size beyond
        (lambda n: 0 if n < 40 else 100 + 7 * n, 1000, 128, 15),  # none below
        (lambda n: 0.01 + n / 3000, 1.0, 2970, 5),
    ],
)
def test_the_largest_size_is_found(taken: Callable[[int], float], budget: float, size: int, looks: int) -> None:
    seen: set[int] = set()

    def looked(n: int) -> float:
        seen.add(n)
        return taken(n)

    assert search(looked, budget, MOST) == size
    assert len(seen) <= looks
