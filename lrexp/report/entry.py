"""The rows of a table with all that stands behind them: rates tried, test against the baseline, the paper's value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrexp.report import marks
from lrexp.report.baseline import Comparison, against, bold
from lrexp.report.collect import Run
from lrexp.report.group import Group, differing, group
from lrexp.report.paper import Reported, reported
from lrexp.report.tuned import rate_family, rates_tried, tuned
from lrexp.spec.result import LOWER_IS_BETTER


@dataclass(frozen=True)
class Options:
    """What a table shows: the keys that are tuned, the baseline's method, and whether papers' values stand beside."""

    tuned: tuple[str, ...] = ()
    baseline: str | None = None
    with_paper: bool = False


@dataclass(frozen=True)
class Entry:
    """One row. `comparison` is None for the baseline itself and where there is nothing to compare with."""

    group: Group
    rates_tried: int
    comparison: Comparison | None
    bold: bool
    reported: Reported | None

    @property
    def marks(self) -> list[str]:
        """Words beside the numbers."""
        changed = self.reported.changed if self.reported else ()
        beside = [
            *marks.evidence(self.group, self.rates_tried),
            *marks.beside_paper(self.reported is not None, changed),
        ]
        return [*marks.marks(self.group), *beside]


def entries(runs: Sequence[Run], options: Options) -> tuple[list[Entry], list[str]]:
    """The rows in their order, and the keys in which they differ (before any was chosen as the best of its family).

    Raises InputError for keys and methods that `runs` do not have.
    """
    groups = ordered(group(runs))
    keys = differing(groups)
    rates = rates_tried(groups, options.tuned)
    if options.tuned:
        groups = ordered(tuned(groups, options.tuned))
    compared: list[Comparison | None] = [None] * len(groups)
    strong = [False] * len(groups)
    if options.baseline is not None:
        compared = against(groups, options.baseline)
        strong = bold(groups, compared, options.baseline)
    found = [
        Entry(
            group=one,
            rates_tried=rates[rate_family(one, options.tuned)],
            comparison=comparison,
            bold=is_bold,
            reported=reported(one) if options.with_paper else None,
        )
        for one, comparison, is_bold in zip(groups, compared, strong, strict=True)
    ]
    return found, keys


def ordered(groups: Sequence[Group]) -> list[Group]:
    """By experiment, dataset and model; there the best mean comes first, rows without one last."""

    def place(found: Group) -> tuple[object, ...]:
        mean = found.summary.mean if found.summary else None
        better = 0.0 if mean is None else mean if found.metric in LOWER_IS_BETTER else -mean
        names = [found.experiment or "", found.part("dataset") or "", found.part("model") or ""]
        return (*names, mean is None, found.metric or "", better, found.part("method") or "")

    return sorted(groups, key=place)
