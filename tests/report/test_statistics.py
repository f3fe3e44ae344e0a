import math
import random

import numpy as np
import pytest
from scipy import stats

from lrexp.report.statistics import interval, mean, median, standard_deviation, summary


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_mean_spread_and_interval_equal_scipy(n: int) -> None:
    draw = random.Random(n)
    values = [draw.gauss(0.7, 0.02) for _ in range(n)]
    found = summary(values)
    assert found is not None and found.spread is not None and found.interval is not None
    assert found.n == n
    assert found.mean == pytest.approx(np.mean(values), rel=1e-14)
    assert found.spread == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    expected = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.interval == pytest.approx(expected, rel=1e-12)
    assert median(values) == pytest.approx(np.median(values), rel=1e-14)


def test_interval_of_two_by_hand() -> None:
    low, high = interval([1.0, 3.0]) or (math.nan, math.nan)
    half = 12.706204736432095 * math.sqrt(2) / math.sqrt(2)  # t(0.975, 1) * sd / sqrt(n)
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_one_seed_has_no_spread_and_no_interval() -> None:
    found = summary([0.73])
    assert found is not None
    assert (found.n, found.mean, found.spread, found.interval) == (1, 0.73, None, None)
    assert summary([]) is None


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    assert standard_deviation([0.5, 0.5, 0.5]) == 0
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    value = 279 / 408  # whose mean over three is not itself, by rounding
    assert standard_deviation([value] * 3) == 0


def test_the_sum_is_exact() -> None:
    assert mean([1e16, 1.0, -1e16]) == pytest.approx(1 / 3)
