"""Words beside points of a panel, where they cover neither a point nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

GAP = 4.5  # points between a marker's middle and the words
AROUND = (  # right, left, above, below, then the corners: offsets and how the words are aligned to them
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0.7, 0.7, "left", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"),
    (-0.7, -0.7, "right", "top"),
    (0, 1.2, "center", "bottom"),
    (0, -1.2, "center", "top"),
)


def write_beside(ax: Axes, named: Sequence[tuple[float, float, str]], taken: Sequence[tuple[float, float]]) -> None:
    """Writes each text (x, y in data, text) at the first free side of its point; `taken` are all points of the panel.

    The figure must have its final layout. A text without a free side is left out.
    """
    from matplotlib.transforms import Bbox

    pixels = ax.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    half = 0.7 * GAP * pixels
    centres = ax.transData.transform(list(taken))
    filled = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in centres]
    for x, y, text in named:
        box = _written(ax, (x, y), text, filled)
        filled += [box] if box else []


def _written(ax: Axes, point: tuple[float, float], text: str, filled: Sequence[Bbox]) -> Bbox | None:
    for right, up, horizontal, vertical in AROUND:
        words = ax.annotate(
            text,
            point,
            (GAP * right, GAP * up),
            textcoords="offset points",
            horizontalalignment=horizontal,
            verticalalignment=vertical,
            fontsize=6.5,
            color="0.25",
        )
        words.set_in_layout(False)
        box = words.get_window_extent()
        inside = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 and ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1
        if inside and not any(box.overlaps(other) for other in filled):
            return box
        words.remove()
    return None
