"""Where things of a panel stand so that none covers another: points side by side, words at a free side of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

NEAR = 0.025  # of an axis: less is one place
APART = 0.028  # of an axis, between two that stand side by side
GAP = 5.0  # points between a marker's middle and its words
AROUND = (  # right, left, the corners, then beyond the bar's ends: offsets, and how the words are aligned to them
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0.7, 0.7, "left", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"),
    (-0.7, -0.7, "right", "top"),
    (0, 0.6, "center", "bottom"),
    (0, -0.6, "center", "top"),
)


@dataclass(frozen=True)
class Spot:
    """Where a point is drawn, in data coordinates, and the ends of its bar."""

    x: float
    y: float
    low: float
    high: float


def side_by_side(values: Sequence[float], logarithmic: bool) -> list[float]:
    """The values, but such as are as good as equal on their axis moved into a row around their middle."""
    on_axis = [math.log10(value) if logarithmic else value for value in values]
    width = max(on_axis) - min(on_axis) or (1.0 if logarithmic else abs(values[0]) or 1.0)
    rows: list[list[int]] = []
    for index in sorted(range(len(values)), key=on_axis.__getitem__):
        if rows and on_axis[index] - on_axis[rows[-1][0]] <= NEAR * width:
            rows[-1].append(index)
        else:
            rows.append([index])
    moved = list(values)
    for row in rows:
        middle = (on_axis[row[0]] + on_axis[row[-1]]) / 2
        for place, index in enumerate(row if len(row) > 1 else []):
            value = middle + APART * width * (place - (len(row) - 1) / 2)
            moved[index] = 10**value if logarithmic else value
    return moved


def write_beside(ax: Axes, texts: Sequence[tuple[str, Spot]], spots: Sequence[Spot]) -> None:
    """Writes each text at the first free side of its spot, the first texts first; `spots` are all of the panel.

    The figure must have its final layout. A text without a free side is left out.
    """
    filled = [box for spot in spots for box in _boxes(ax, spot)]
    for text, spot in texts:
        box = _written(ax, spot, text, filled)
        filled += [box] if box else []


def _boxes(ax: Axes, spot: Spot) -> list[Bbox]:
    """What a marker and its bar cover, in pixels."""
    from matplotlib.transforms import Bbox

    (x, y), (_, low), (_, high) = ax.transData.transform([(spot.x, value) for value in (spot.y, spot.low, spot.high)])
    half = 0.6 * GAP * ax.figure.dpi / 72
    return [Bbox.from_extents(x - half, y - half, x + half, y + half), Bbox.from_extents(x - 1, low, x + 1, high)]


def _written(ax: Axes, spot: Spot, text: str, filled: Sequence[Bbox]) -> Bbox | None:
    from matplotlib.patheffects import withStroke

    for right, up, horizontal, vertical in AROUND:
        words = ax.annotate(
            text,
            (spot.x, spot.y if right else spot.high if up > 0 else spot.low),
            (GAP * right, GAP * up),
            textcoords="offset points",
            horizontalalignment=horizontal,
            verticalalignment=vertical,
            fontsize=6.5,
            color="0.2",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        words.set_in_layout(False)
        box = words.get_window_extent()
        inside = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 and ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1
        if inside and not any(box.overlaps(other) for other in filled):
            return box
        words.remove()
    return None
