"""Quality against cost: a point for each group, and the Pareto front through those that nothing beats on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrexp.report.figure import Drawing, Mark, grid, legend, marks, outer_labels, style
from lrexp.report.group import Group
from lrexp.report.labels import Label, labels, left_out
from lrexp.report.panels import panels, shape
from lrexp.report.place import Spot, side_by_side, write_beside
from lrexp.report.quality import Quality, check_metric, explained, point, quality, quality_axis, spot
from lrexp.report.scale import logarithmic, lower_is_better, short, spans, unit
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

MOST_NAMED = 12  # points of a panel that all have their details beside them; of more, those of the front
LETTERS = 16  # of details beside a point; longer ones stand in the legend
FRONT = "Pareto front"


@dataclass(frozen=True)
class Point:
    """One group: its cost in base units, and its quality over seeds."""

    label: Label
    name: str  # in the legend
    cost: float
    quality: Quality


def draw(groups: Sequence[Group], cost: str, metric: str | None = None) -> Drawing:
    """A panel for each dataset, model and metric; `cost` is one of `scale.COSTS`, the largest or median over seeds.

    `metric` replaces the primary metric. Raises InputError where there is nothing to draw.
    """
    check_metric(groups, metric)
    texts = labels(groups)
    names = _names(texts)
    points = {id(one): _point(text, names[text], one, cost, metric) for one, text in zip(groups, texts, strict=True)}
    shown = panels([one for one in groups if points[id(one)]], lambda one: (one.metric, one.get("evaluated_on")))
    if not shown:
        raise InputError(f"plot: no finished run has {cost} beside the metric")
    with style():
        found = [[p for one in panel.groups if (p := points[id(one)])] for panel in shown]
        styles = marks([one.name for own in found for one in own])
        figure, axes = grid(*shape(len(shown)), len(shown))
        for ax, own, panel in zip(axes, found, shown, strict=True):
            ax.set_title(panel.title)
            name = metric or panel.groups[0].metric
            _panel(ax, own, cost, styles, lower_is_better(name))
            quality_axis(ax, name, panel.groups[0].get("evaluated_on"), [one.quality.mean for one in own])
        outer_labels(axes, shape(len(shown))[1])
        legend(figure, _entries(styles, [one.quality for own in found for one in own]))
        figure.draw_without_rendering()  # settles the layout, which the words' places depend on
        for ax, own, panel in zip(axes, found, shown, strict=True):
            _name(ax, own, cost, lower_is_better(metric or panel.groups[0].metric))
    notes = ["points of one cost stand side by side"] if any(_crowded(own) for own in found) else []
    return Drawing(figure, notes + left_out([one for one in groups if not points[id(one)]], groups))


def front(points: Sequence[Point], lower: bool) -> list[Point]:
    """The points that no other equals or beats in cost and mean while it beats them in one, from cheap to dear."""
    sign = -1 if lower else 1
    found: list[Point] = []
    for one in sorted(points, key=lambda one: (one.cost, -sign * one.quality.mean)):
        if not found or sign * one.quality.mean > sign * found[-1].quality.mean:
            found.append(one)
    return found


def _names(texts: Sequence[Label]) -> dict[Label, str]:
    """What the legend calls the groups: the method, whose details stand beside the points, unless these are long."""
    long = any(len(text.detail) > LETTERS for text in texts) and len(set(texts)) <= MOST_NAMED
    return {text: str(text) if long else text.method for text in texts}


def _point(label: Label, name: str, group: Group, cost: str, metric: str | None) -> Point | None:
    found, spent = quality(group, metric), group.costs[cost]
    return None if found is None or spent is None else Point(label, name, spent, found)


def _panel(ax: Axes, points: Sequence[Point], cost: str, styles: dict[str, Mark], lower: bool) -> None:
    spots = _spots(points, cost)
    for one, place in zip(points, spots, strict=True):
        point(ax, place, one.quality, styles[one.name], str(one.label))
    costs = [one.cost for one in points]
    scale = unit(cost, costs)
    ax.set_xlabel(scale.words)
    ax.xaxis.set_major_formatter(lambda value, _: short(value))
    if spans(costs):
        logarithmic(ax, "x", [value / scale.size for value in costs])
    ax.margins(x=0.12, y=0.12)
    if min(costs) == max(costs):
        ax.set_xlim(0.8 * costs[0] / scale.size, 1.2 * costs[0] / scale.size)
    end = ax.get_xlim()[1]
    best = front(points, lower)
    steps = [(place.x, place.y) for one in best for place in [spots[points.index(one)]]]
    steps.append((end, steps[-1][1]))  # more may be spent on the best
    ax.plot(*zip(*steps, strict=True), color="0.35", linewidth=0.9, drawstyle="steps-post", zorder=1, label=FRONT)
    ax.set_xlim(right=end)


def _spots(points: Sequence[Point], cost: str) -> list[Spot]:
    """Where the points stand; those of one cost side by side."""
    costs = [one.cost for one in points]
    size = unit(cost, costs).size
    places = side_by_side(costs, spans(costs))
    return [spot(place / size, one.quality) for one, place in zip(points, places, strict=True)]


def _crowded(points: Sequence[Point]) -> bool:
    costs = [one.cost for one in points]
    return side_by_side(costs, spans(costs)) != costs


def _name(ax: Axes, points: Sequence[Point], cost: str, lower: bool) -> None:
    """Writes beside the points what the method's name does not say, those of the front first."""
    best = front(points, lower)
    spots = _spots(points, cost)
    named = [(one, place) for one, place in zip(points, spots, strict=True) if one.name != str(one.label)]
    named.sort(key=lambda pair: pair[0] not in best)
    texts = [(one.label.detail, place) for one, place in named if len(points) <= MOST_NAMED or one in best]
    write_beside(ax, texts, spots)


def _entries(styles: dict[str, Mark], found: Sequence[Quality]) -> dict[str, Artist]:
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {
        method: Line2D([], [], color=mark.color, linestyle="", marker=mark.marker) for method, mark in styles.items()
    }
    entries[FRONT] = Line2D([], [], color="0.35", linewidth=0.9)
    return entries | explained(found)
