"""Learning curves: training loss and evaluations against the step, a line with a band over seeds for each group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.report.collect import Run
from lrexp.report.figure import Drawing, Mark, grid, legend, marks, outer_labels, style
from lrexp.report.group import Group
from lrexp.report.history import History, history
from lrexp.report.labels import labels, left_out
from lrexp.report.panels import panels
from lrexp.report.scale import logarithmic, metric_words, spans, split_of
from lrexp.report.statistics import mean, standard_deviation
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError
from lrexp.spec.result import STANDARD_ERROR

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LOSS = "train/loss"
FOR_BAND = 3  # seeds
LOGARITHM_FROM = 100  # times the least loss: a run that diverges hides all others on a plain axis
FEW_STEPS = 12  # all of them are marked


@dataclass(frozen=True)
class Track:
    """One run's values of one name, by step."""

    values: dict[int, float]
    failed: bool = False


@dataclass(frozen=True)
class Band:
    """Mean and standard deviation over seeds at the steps that all of them have."""

    steps: list[int]
    means: list[float]
    spreads: list[float]


@dataclass
class Curve:
    """What a panel shows of one group: a band over finished seeds, or each of them; and what has not finished."""

    label: str
    seeds: int = 0
    band: Band | None = None
    single: list[Track] = field(default_factory=list)

    def values(self) -> list[float]:
        """All numbers that are drawn."""
        drawn = [value for track in self.single for value in track.values.values()]
        return drawn + (self.band.means if self.band else [])


def draw(groups: Sequence[Group], metric: str | None = None) -> Drawing:
    """A column of panels for each dataset and model; rows: training loss, and the primary metric where it is there.

    `metric` is the one name of metrics.jsonl to show instead. A line is the mean over at least three finished seeds,
    its band one standard deviation; fewer seeds, and runs that have not finished, are thin lines. Raises InputError
    where there is nothing to draw.
    """
    found = {run.folder: history(run.folder) for one in groups for run in one.runs}
    recorded = _names(found.values())
    if not recorded:
        raise InputError("plot: no run has logged a step yet: nothing to draw")
    if metric is not None and metric not in recorded:
        raise InputError(unknown(f"--metric {metric}", metric, recorded, "name of metrics.jsonl", "Recorded"))
    texts = dict(zip(map(id, groups), map(str, labels(groups)), strict=True))
    columns = panels(groups)
    rows = [[metric] * len(columns)] if metric else _rows([panel.groups for panel in columns], found)
    with style():
        styles = marks(list(texts.values()))
        figure, axes = grid(len(rows), len(columns))
        drawn: list[Curve] = []
        for place, ax in enumerate(axes):
            row, column = divmod(place, len(columns))
            name = rows[row][column]
            curves = [curve(texts[id(one)], one, found, name) for one in columns[column].groups] if name else []
            drawn += curves
            _panel(ax, curves, styles, name)
            if row == 0:
                ax.set_title(columns[column].title)
            else:
                ax.sharex(axes[column])
        for ax in axes:
            ax.set_xlim(left=0)
        outer_labels(axes, len(columns))
        legend(figure, _entries(styles, drawn))
    shown = {one.label for one in drawn if one.values()}
    return Drawing(figure, left_out([one for one in groups if texts[id(one)] not in shown], groups))


def curve(label: str, group: Group, found: Mapping[Path, History], name: str) -> Curve:
    """What the group's runs say of `name`."""
    finished = [track for run in group.finished if (track := _track(run, found, name)).values]
    done = {run.result["seed"] for run in group.finished if run.result}
    others = [_track(run, found, name) for run in group.runs if run.status != "finished" and _seed(run) not in done]
    band = _band(finished) if len(finished) >= FOR_BAND else None
    single = [*([] if band else finished), *(track for track in others if track.values)]
    return Curve(label, len(finished), band, single)


def _seed(run: Run) -> object:
    return run.result["seed"] if run.result else run.spec.get("seed")


def _track(run: Run, found: Mapping[Path, History], name: str) -> Track:
    return Track(found[run.folder].get(name, {}), run.status == "failed")


def _band(tracks: Sequence[Track]) -> Band | None:
    """None where no step is common to all."""
    steps = sorted(set.intersection(*({s for s, v in one.values.items() if math.isfinite(v)} for one in tracks)))
    values = [[one.values[step] for one in tracks] for step in steps]
    return Band(steps, [mean(v) for v in values], [standard_deviation(v) or 0.0 for v in values]) if steps else None


def _names(histories: Iterable[History]) -> list[str]:
    return list(dict.fromkeys(name for one in histories for name in one))


def _rows(columns: Sequence[Sequence[Group]], found: Mapping[Path, History]) -> list[list[str | None]]:
    """The names that each row shows, a column each: the loss, then the evaluations."""
    evaluations = [_evaluation(groups, found) for groups in columns]
    return [[LOSS for _ in columns], evaluations] if any(evaluations) else [[LOSS for _ in columns]]


def _evaluation(groups: Sequence[Group], found: Mapping[Path, History]) -> str | None:
    """The evaluation to show: the primary metric, else the first that was recorded; None where no run has two."""
    names = _names(
        {name: steps for name, steps in found[run.folder].items() if len(steps) > 1 and _is_evaluation(name)}
        for one in groups
        for run in one.runs
    )
    primary = next((one.metric for one in groups if one.metric), None)
    return next((name for name in names if split_of(name)[1] == primary), names[0] if names else None)


def _is_evaluation(name: str) -> bool:
    return not name.startswith(("train/", "method/")) and not name.endswith(STANDARD_ERROR)


def _panel(ax: Axes, curves: Sequence[Curve], styles: dict[str, Mark], name: str | None) -> None:
    if name is None:
        ax.set_axis_off()
        return
    for i, one in enumerate(curves):
        _line(ax, one, styles[one.label], i)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss" if name == LOSS else metric_words(name, None))
    values = [value for one in curves for value in one.values()]
    if split_of(name)[1] in ("loss", "perplexity") and spans(values, LOGARITHM_FROM):
        logarithmic(ax, "y", values)


def _line(ax: Axes, one: Curve, mark: Mark, place: int) -> None:
    if one.band is not None:
        steps, means, spreads = one.band.steps, one.band.means, one.band.spreads
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        ax.fill_between(steps, low, high, color=mark.color, alpha=0.18, linewidth=0, label=f"band of {one.label}")
        every = _every(len(steps), place)
        ax.plot(
            steps,
            means,
            color=mark.color,
            linestyle=mark.linestyle,
            marker=mark.marker,
            markevery=every,
            label=one.label,
            markersize=3.8,
        )
    for track in one.single:
        steps, values = list(track.values), list(track.values.values())
        thin = {"color": mark.color, "linestyle": mark.linestyle, "linewidth": 0.8, "markersize": 3}
        ax.plot(steps, values, **thin, marker=mark.marker, markevery=_every(len(steps), place), label=one.label)
        if track.failed:
            ax.plot(steps[-1:], values[-1:], "x", color=mark.color, markersize=7, label=f"end of {one.label}")


def _every(steps: int, place: int) -> tuple[int, int]:
    """First marked point and distance: all of few steps, else about six, at other places than the neighbour's."""
    if steps <= FEW_STEPS:
        return 0, 1
    gap = steps // 6
    return (place * gap // 4) % gap, gap


def _entries(styles: dict[str, Mark], drawn: Sequence[Curve]) -> dict[str, Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = {one.label for one in drawn if one.values()}
    entries: dict[str, Artist] = {
        text: Line2D([], [], color=mark.color, linestyle=mark.linestyle, marker=mark.marker)
        for text, mark in styles.items()
        if text in shown
    }
    seeds = [one.seeds for one in drawn if one.band]
    if seeds:
        over = str(seeds[0]) if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)}"
        entries[f"mean ± standard deviation over {over} seeds"] = Patch(facecolor="0.8", linewidth=0)
    if any(one.single for one in drawn):
        entries["one run (fewer than three seeds, or not finished)"] = Line2D([], [], color="0.4", linewidth=0.8)
    if any(track.failed for one in drawn for track in one.single):
        entries["failed"] = Line2D([], [], color="0.4", linestyle="", marker="x", markersize=7)
    return entries
