"""Paired tests of a method against a baseline, two-sided, and Holm's correction for several of them.

Over seeds: Student's paired t-test, from ten pairs on the permutation test of the differences' signs, which needs no
normal distribution. Over items: what two single checkpoints answered, which says nothing of how runs vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrexp.report.statistics import mean, standard_deviation

PAIRED_T = "paired t"
SIGN_FLIPS = "sign flips"
OVER_ITEMS = "over items"
ALPHA = 0.05
FLIPS_FROM = 10  # pairs: fewer have too few signs to flip, 2 / 2^n is the least p-value
EXACT_UP_TO = 20  # pairs: all 2^19 sums that differ in more than their sign are counted
DRAWS = 100_000  # of signs, where there are more pairs
SEED = 0
ROUNDING = 1e-9  # relative: sums that differ by less are equal


@dataclass(frozen=True)
class Test:
    """Mean difference to the baseline over `pairs`; `name` and `p_value` are None where no test can be made."""

    pairs: int
    difference: float | None
    name: str | None = None
    p_value: float | None = None


def over_seeds(differences: Sequence[float]) -> Test:
    """The test of method - baseline, one difference a seed: none below two pairs, or where they are all one value."""
    n = len(differences)
    if n < 2:
        return Test(n, differences[0] if n else None)
    name, test = (SIGN_FLIPS, sign_flips) if n >= FLIPS_FROM else (PAIRED_T, paired_t)
    p_value = test(differences)
    return Test(n, mean(differences), name if p_value is not None else None, p_value)


def over_items(ours: Sequence[bool], theirs: Sequence[bool]) -> Test:
    """The exact permutation test of two checkpoints' right answers to the same items, exchanged item by item.

    Only items that one of them answers right move the difference, each by one: its distribution is binomial (McNemar).
    """
    if not ours:
        return Test(0, None)
    from scipy.special import bdtr

    gained = sum(1 for our, their in zip(ours, theirs, strict=True) if our and not their)
    lost = sum(1 for our, their in zip(ours, theirs, strict=True) if their and not our)
    p_value = min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5))) if gained + lost else 1.0
    return Test(len(ours), (gained - lost) / len(ours), OVER_ITEMS, p_value)


def paired_t(differences: Sequence[float]) -> float | None:
    """Student's t-test that the mean difference is 0, for two pairs or more.

    None where all differences are one value other than 0: metrics come in steps of an item, so that few seeds may
    agree by chance, and a spread of 0 would make them certain.
    """
    centre, spread = mean(differences), standard_deviation(differences)
    if spread is None:
        return None
    if spread <= ROUNDING * abs(centre):
        return 1.0 if centre == 0 else None
    from scipy.special import stdtr

    n = len(differences)
    return 2 * float(stdtr(n - 1, -abs(centre) / (spread / math.sqrt(n))))


def sign_flips(differences: Sequence[float]) -> float:
    """The share of the differences' possible signs whose sum is as far from 0 as the one seen.

    Exact for up to EXACT_UP_TO pairs; beyond them DRAWS draws of a fixed seed, the signs seen counted among them.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    seen = abs(values.sum())
    least = seen - ROUNDING * np.abs(values).sum()
    if len(values) <= EXACT_UP_TO:
        sums = values[:1]
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= least))
    generator = np.random.default_rng(SEED)
    extreme, chunk = 0, 10_000
    for _ in range(DRAWS // chunk):
        signs = 2 * generator.integers(0, 2, size=(chunk, len(values)), dtype=np.int8) - 1  # (draws, pairs)
        extreme += int(np.count_nonzero(np.abs(signs @ values) >= least))
    return (1 + extreme) / (1 + DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th least of m is multiplied by m - k + 1, at least as large as the one before.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
