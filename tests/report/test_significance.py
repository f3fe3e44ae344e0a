"""The tests against other implementations, and against what they mean, spelt out on small cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from lrexp.report.significance import (
    EXACT_UP_TO,
    OVER_ITEMS,
    PAIRED_T,
    SIGN_FLIPS,
    holm,
    over_items,
    over_seeds,
    paired_t,
    sign_flips,
)

GENERATOR = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 9, 40])
@pytest.mark.parametrize("shift", [0.0, -0.5, 2.0])
def test_the_paired_t_test_is_scipys(n: int, shift: float) -> None:
    ours, theirs = GENERATOR.normal(size=(2, n))
    expected = stats.ttest_rel(ours + shift, theirs).pvalue
    assert paired_t((ours + shift - theirs).tolist()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n", [2, 7, 12])
@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_sign_flips_are_scipys_permutations(n: int, shift: float) -> None:
    differences = GENERATOR.normal(shift, size=n)
    exact = stats.permutation_test(
        (differences,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flips(differences.tolist()) == pytest.approx(exact.pvalue, abs=1e-12)


def test_sign_flips_count_ties_and_both_tails() -> None:
    values = [0.1, 0.2, 0.3, -0.1, 0.2]  # sums that are equal but for rounding
    signs = itertools.product((1, -1), repeat=len(values))
    sums = [round(sum(s * v for s, v in zip(drawn, values, strict=True)), 9) for drawn in signs]
    assert sign_flips(values) == sum(abs(found) >= 0.7 for found in sums) / 32
    assert sign_flips([0.0] * 12) == 1.0
    assert sign_flips([1.0] * 10) == 2 / 1024


def test_drawn_signs_are_near_the_exact_ones_and_repeat() -> None:
    differences = GENERATOR.normal(0.35, size=EXACT_UP_TO).tolist()
    exact = sign_flips(differences)
    drawn = sign_flips([*differences, 0.0])  # one pair more, which no sign moves
    assert 0.001 < exact < 0.9 and drawn == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 100_000) ** 0.5)
    assert drawn == sign_flips([*differences, 0.0])
    assert sign_flips([1.0] * 60) == 1 / 100_001  # never 0


def test_seeds_choose_the_test() -> None:
    few, many = (over_seeds(GENERATOR.normal(size=n).tolist()) for n in (9, 10))
    assert (few.name, few.pairs, many.name, many.pairs) == (PAIRED_T, 9, SIGN_FLIPS, 10)
    assert over_seeds([]).p_value is over_seeds([]).difference is None
    one = over_seeds([0.25])
    assert (one.pairs, one.difference, one.name, one.p_value) == (1, 0.25, None, None)


def test_equal_differences_of_few_seeds_prove_nothing() -> None:
    found = over_seeds([0.8 - 0.7, 0.81 - 0.71, 0.9 - 0.8])
    assert found.difference == pytest.approx(0.1) and found.name is None and found.p_value is None
    assert over_seeds([0.0, 0.0]).p_value == 1.0


@pytest.mark.parametrize("n", [1, 6, 200])
def test_over_items_is_mcnemars_exact_test(n: int) -> None:
    ours, theirs = (GENERATOR.random((2, n)) < [[0.8], [0.6]]).tolist()
    gained = sum(o and not t for o, t in zip(ours, theirs, strict=True))
    apart = sum(o != t for o, t in zip(ours, theirs, strict=True))
    found = over_items(ours, theirs)
    assert found.p_value == pytest.approx(stats.binomtest(gained, apart).pvalue if apart else 1.0)
    assert (found.name, found.pairs) == (OVER_ITEMS, n)
    assert found.difference == pytest.approx(np.mean(ours) - np.mean(theirs))


def test_over_items_exchanges_the_answers_item_by_item() -> None:
    ours = np.array([1, 1, 1, 1, 0, 1, 0, 1], dtype=bool)
    theirs = np.array([0, 1, 0, 0, 1, 0, 0, 1], dtype=bool)
    difference = ours.astype(int) - theirs.astype(int)
    sums = np.array(list(itertools.product((1, -1), repeat=8))) @ difference
    expected = np.mean(np.abs(sums) >= abs(difference.sum()))
    assert over_items(ours.tolist(), theirs.tolist()).p_value == pytest.approx(expected)


@pytest.mark.parametrize("m", [1, 2, 5, 7])
def test_holm_closes_bonferronis_tests(m: int) -> None:
    """A hypothesis is rejected if each intersection with it is: the largest of size times least p-value."""
    p_values = (GENERATOR.random(m) ** 3).tolist()
    sets = [s for size in range(1, m + 1) for s in itertools.combinations(range(m), size)]
    expected = [max(min(1, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in range(m)]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_family_wise_error_stays_below_its_bound() -> None:
    """A small run of scripts/simulate_tables.py: nine methods with the baseline's noise, 600 tables."""
    runs = GENERATOR.normal(size=(600, 10, 4)) + GENERATOR.normal(size=(600, 1, 4))
    tables = (runs[:, 1:] - runs[:, :1]).tolist()
    errors = sum(min(holm([over_seeds(row).p_value or 0.0 for row in table])) <= 0.05 for table in tables)
    assert errors / 600 < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5
