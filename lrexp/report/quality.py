"""A group's quality as a point of a picture: the mean of a metric over seeds, with its interval from three seeds on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrexp.report.figure import Mark
from lrexp.report.group import Group
from lrexp.report.place import Spot
from lrexp.report.scale import logarithmic, lower_is_better, metric_words, spans
from lrexp.report.statistics import summary
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FOR_INTERVAL = 3  # seeds: the interval of two is thirteen standard errors to each side
INTERVAL = "mean and 95 % interval over at least three seeds"
HOLLOW = "mean of fewer than three seeds"


@dataclass(frozen=True)
class Quality:
    """Mean over n seeds; the 95 % interval is None where there are fewer than three."""

    n: int
    mean: float
    interval: tuple[float, float] | None


def quality(group: Group, metric: str | None) -> Quality | None:
    """The group's `metric`, its primary one where that is None; None where no finished run has it."""
    name = metric or group.metric
    found = summary(list(group.values_of(name).values())) if name else None
    return found and Quality(found.n, found.mean, found.interval if found.n >= FOR_INTERVAL else None)


def check_metric(groups: Sequence[Group], metric: str | None) -> None:
    """Raises InputError where no run has finished, or none has `metric`."""
    metrics = [run.result["metrics"] for one in groups for run in one.finished if run.result]
    if not metrics:
        raise InputError("plot: no run has finished; --kind curves shows what has been logged so far")
    names = list(dict.fromkeys(name for found in metrics for name in found))
    if metric is not None and metric not in names:
        raise InputError(unknown(f"--metric {metric}", metric, names, "metric of result.json", "Metrics"))


def point(ax: Axes, spot: Spot, found: Quality, mark: Mark, label: str) -> None:
    """The mean, hollow where fewer than three seeds stand behind it, with the interval as a bar."""
    if found.interval is not None:
        errors = [[spot.y - spot.low], [spot.high - spot.y]]
        ax.errorbar([spot.x], [spot.y], errors, fmt="none", ecolor=mark.color, elinewidth=0.9, label=f"bar of {label}")
    face, edge, width = (mark.color, "white", 0.3) if found.interval else ("white", mark.color, 1.0)
    ax.plot(
        [spot.x],
        [spot.y],
        linestyle="",
        marker=mark.marker,
        markersize=5.5,
        markerfacecolor=face,
        markeredgecolor=edge,
        markeredgewidth=width,
        zorder=3,
        label=label,
    )


def spot(x: float, found: Quality) -> Spot:
    """Where a quality stands at x."""
    return Spot(x, found.mean, *(found.interval or (found.mean, found.mean)))


def quality_axis(ax: Axes, metric: str, evaluated_on: str | None, means: Sequence[float]) -> None:
    """The words of the y axis; logarithmic where the means span more than a decade."""
    direction = "\nlower is better" if lower_is_better(metric) else ""
    ax.set_ylabel(f"{metric_words(metric, evaluated_on)}{direction}")
    if spans(means):
        logarithmic(ax, "y", means)


def explained(found: Sequence[Quality]) -> dict[str, Artist]:
    """Entries of the legend for full and hollow points, as far as there are any."""
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {}
    if any(one.interval for one in found):
        entries[INTERVAL] = Line2D([], [], color="0.4", marker="o", linewidth=0.9)
    if any(one.interval is None for one in found):
        entries[HOLLOW] = Line2D([], [], color="0.4", marker="o", linestyle="", markerfacecolor="white")
    return entries
