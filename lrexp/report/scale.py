"""Axes of numbers: words and units for what they measure, and a logarithm where they span more than a decade."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lrexp.spec.result import LOWER_IS_BETTER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADE = 10
MANY_DECADES = 10**4  # between which only whole ones are marked
SPLITS = ("train", "selection", "validation", "test")
COSTS = {  # words, and units from large to small
    "trainable_parameters": ("trainable parameters", ()),
    "peak_memory_bytes": ("peak memory", ((1e9, "GB"), (1e6, "MB"), (1.0, "bytes"))),
    "train_seconds": ("training time", ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))),
    "step_seconds": ("time of a step", ((1.0, "seconds"), (1e-3, "milliseconds"))),
}


@dataclass(frozen=True)
class Unit:
    """What a cost is divided by, and the axis's words."""

    size: float
    words: str


def unit(cost: str, values: Sequence[float]) -> Unit:
    """The largest unit of `cost` in which the middle value is at least one."""
    words, units = COSTS[cost]
    if not units:
        return Unit(1.0, words)
    middle = sorted(values)[len(values) // 2]
    size, name = next((pair for pair in units if middle >= pair[0]), units[-1])
    return Unit(size, f"{words}, {name}")


def metric_words(metric: str, evaluated_on: str | None) -> str:
    """A metric in words, and the split: "accuracy (test)"."""
    split, name = split_of(metric)
    words = name.replace("_", " ")
    where = split or evaluated_on
    return f"{words} ({where})" if where else words


def lower_is_better(metric: str) -> bool:
    """Whether a metric, with or without the name of a split before it, is better when it is lower."""
    return split_of(metric)[1] in LOWER_IS_BETTER


def split_of(metric: str) -> tuple[str | None, str]:
    """("validation", "accuracy") of validation/accuracy and validation_accuracy; (None, "accuracy") of accuracy."""
    for split in SPLITS:
        if metric.startswith((f"{split}_", f"{split}/")):
            return split, metric[len(split) + 1 :]
    return None, metric


def spans(values: Sequence[float], factor: float = DECADE) -> bool:
    """Whether positive values span more than a factor, a decade unless told."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > factor * min(finite)


def logarithmic(
    axes: Axes,
    which: Literal["x", "y"],
    values: Sequence[float],
    between: tuple[int, ...] = (2, 5),
    written: Callable[[float], str] | None = None,
) -> None:
    """A logarithmic axis with ticks at the decades, and `between` them where these are few; `written` as `short`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    few = not spans(values, DECADE**2)
    axis.set_major_locator(LogLocator(subs=(1, *between) if few else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: (written or short)(value)))
    axis.set_minor_formatter(NullFormatter())
    if spans(values, MANY_DECADES):
        axis.set_minor_locator(NullLocator())


def short(value: float) -> str:
    """A tick: 0.001 as 1e-3, 20000 as 20 k, 1500000 as 1.5 M, others as they are."""
    for least, size, letter in ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:.4g} {letter}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 0.01 else exponent(value)


def exponent(value: float) -> str:
    """0.003 as 3e-3, as rates are given on the command line."""
    digits, _, power = f"{value:.3e}".partition("e")
    return f"{float(digits):g}e{int(power)}"
