"""Mean, spread and interval over seeds: the runs of a row are taken as independent draws of one normal distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What n seeds say of a metric: spread and interval are None where n is 1."""

    n: int
    mean: float
    spread: float | None
    interval: tuple[float, float] | None

    @property
    def half_width(self) -> float | None:
        """Of the interval."""
        return (self.interval[1] - self.interval[0]) / 2 if self.interval else None


def summary(values: Sequence[float]) -> Summary | None:
    """Mean, standard deviation and 95 % interval of the seeds' values; None without values."""
    if not values:
        return None
    return Summary(len(values), mean(values), standard_deviation(values), interval(values))


def mean(values: Sequence[float]) -> float:
    """sum(x) / n, summed exactly."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Of the sample, over seeds: sqrt(sum((x - mean)^2) / (n - 1)); None where n is 1."""
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return 0.0  # not what rounding makes of it
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean: mean -+ t((1 + level) / 2, n - 1) * sd / sqrt(n); None where n is 1."""
    spread = standard_deviation(values)
    if spread is None:
        return None
    from scipy.special import stdtrit  # the quantile of t; scipy.stats would take a second to import

    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * spread / math.sqrt(len(values))
    centre = mean(values)
    return centre - half, centre + half


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
