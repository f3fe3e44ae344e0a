"""Sensitivity to the learning rate: a metric against the rate, a line for each method, and where runs failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrexp.report.collect import Run
from lrexp.report.figure import Drawing, Mark, grid, legend, marks, outer_labels, style
from lrexp.report.group import Group
from lrexp.report.labels import labels, left_out
from lrexp.report.panels import panels, shape
from lrexp.report.quality import Quality, check_metric, explained, point, quality, quality_axis, spot
from lrexp.report.scale import exponent, logarithmic, lower_is_better, spans
from lrexp.report.tuned import families
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

RATE = "training.learning_rate"
NOT_FINITE = re.compile(r"\bis -?(nan|inf)\b")
LANE = 0.06  # of the panel's height, for the failed runs of one line


@dataclass(frozen=True)
class Line:
    """One method's points from low to high rate, and the rates at which runs failed."""

    label: str
    points: list[tuple[float, Quality]]
    failed: list[float]
    runs: list[Run]  # those that failed


def draw(groups: Sequence[Group], metric: str | None = None) -> Drawing:
    """A panel for each dataset, model and metric; `metric` replaces the primary metric.

    Raises InputError where there is nothing to draw, or all runs have one rate.
    """
    check_metric(groups, metric)
    rated = [one for one in groups if isinstance(one.identity.get(RATE), int | float)]
    ended = [one for one in rated if quality(one, metric) or one.with_status("failed")]
    found = {id(members[0]): members for members in families(ended, [RATE])}
    firsts = [members[0] for members in found.values()]
    texts = dict(zip(found, map(str, labels(firsts, without=[RATE])), strict=True))
    shown = [
        (panel, [line(texts[id(one)], found[id(one)], metric) for one in panel.groups])
        for panel in panels(firsts, lambda one: (one.metric, one.get("evaluated_on")))
        if any(quality(member, metric) for one in panel.groups for member in found[id(one)])
    ]
    drawn = [member for panel, _ in shown for one in panel.groups for member in found[id(one)]]
    if len({one.identity[RATE] for one in drawn}) < 2:
        raise InputError(f"plot: --kind rates needs finished runs that differ in {RATE}, such as {RATE}=1e-3,3e-3")
    with style():
        styles = marks([one.label for _, lines in shown for one in lines])
        figure, axes = grid(*shape(len(shown)), len(shown))
        for ax, (panel, lines) in zip(axes, shown, strict=True):
            ax.set_title(panel.title)
            name = metric or panel.groups[0].metric
            means = [value.mean for one in lines for _, value in one.points]
            quality_axis(ax, name, panel.groups[0].get("evaluated_on"), means)
            _panel(ax, lines, styles, lower_is_better(name))
        outer_labels(axes, shape(len(shown))[1])
        legend(figure, _entries(styles, [value for _, lines in shown for one in lines for _, value in one.points]))
    return Drawing(figure, left_out([one for one in groups if one not in drawn], groups))


def line(label: str, members: Sequence[Group], metric: str | None) -> Line:
    """The line of groups that differ in their rate alone."""
    ordered = sorted(members, key=lambda one: one.identity[RATE])
    points = [(one.identity[RATE], value) for one in ordered if (value := quality(one, metric))]
    failed = [one for one in ordered if one.with_status("failed")]
    runs = [run for one in failed for run in one.with_status("failed")]
    return Line(label, points, [one.identity[RATE] for one in failed], runs)


def _panel(ax: Axes, lines: Sequence[Line], styles: dict[str, Mark], lower: bool) -> None:
    rates = [rate for one in lines for rate in (*one.failed, *(rate for rate, _ in one.points))]
    logarithmic(ax, "x", rates, between=(3,) if spans(rates, 30) else (2, 5), written=exponent)
    for one in lines:
        mark = styles[one.label]
        tried, means = [rate for rate, _ in one.points], [value.mean for _, value in one.points]
        ax.plot(tried, means, color=mark.color, linestyle=mark.linestyle, label=one.label)
        for rate, value in one.points:
            point(ax, spot(rate, value), value, mark, f"point of {one.label}")
    _failed(ax, lines, styles, lower)
    ax.set_xlabel("learning rate")


def _failed(ax: Axes, lines: Sequence[Line], styles: dict[str, Mark], lower: bool) -> None:
    """A strip at the worse edge, where failed runs have their line's mark, each line at a height of its own."""
    failed = [one for one in lines if one.failed]
    if not failed:
        return
    _strip(ax, LANE * len(failed), lower, _word([run for one in failed for run in one.runs]))
    for lane, one in enumerate(failed):
        height, mark = LANE * (lane + 0.5), styles[one.label]
        ax.plot(
            one.failed,
            [1 - height if lower else height] * len(one.failed),
            transform=ax.get_xaxis_transform(),
            color=mark.color,
            linestyle="",
            marker=mark.marker,
            label=f"failed runs of {one.label}",
        )


def _strip(ax: Axes, share: float, lower: bool, word: str) -> None:
    """Makes room of that share of the height at the worse edge, and gives it a name among the ticks."""
    scale = ax.yaxis.get_transform()
    limits = ax.get_ylim()
    low, high = (float(scale.transform(value)) for value in limits)
    room = (high - low) * share / (1 - share)
    middle, end = (float(scale.inverted().transform(high + r if lower else low - r)) for r in (room / 2, room))
    ticks = [tick for tick in ax.get_yticks() if limits[0] <= tick <= limits[1]]
    labels = ax.yaxis.get_major_formatter().format_ticks(ticks)
    ax.set_yticks([*ticks, middle], [*labels, word])
    ax.set_ylim((limits[0], end) if lower else (end, limits[1]))
    ax.axhspan(*((limits[1], end) if lower else (end, limits[0])), color="0.94", linewidth=0, zorder=0, label=word)


def _word(failed: Sequence[Run]) -> str:
    """How the runs ended: a loss or a gradient that is no number has diverged."""
    diverged = {bool(NOT_FINITE.search(run.reason or "")) for run in failed}
    return "diverged\nor failed" if len(diverged) == 2 else "diverged" if True in diverged else "failed"


def _entries(styles: dict[str, Mark], found: Sequence[Quality]) -> dict[str, Artist]:
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {
        label: Line2D([], [], color=mark.color, linestyle=mark.linestyle, marker=mark.marker)
        for label, mark in styles.items()
    }
    return entries | explained(found)
