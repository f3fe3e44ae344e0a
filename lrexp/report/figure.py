"""The house style of pictures, and how they are saved: the same runs give the same bytes on every machine.

Colours are those of Okabe and Ito (2008), without yellow, which is faint on paper; each goes with a line style and a
marker of its own, so that a grey print and every eye tell them apart. matplotlib is imported only where a picture is
made, without a window, and no style file of the person's has a say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
LINES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "*")
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "errorbar.capsize": 2,
    "figure.dpi": 100,
    "font.size": 8,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # publishers refuse Type 3
    "savefig.dpi": 200,
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "lrexp",
    "xtick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.labelsize": 7.5,
    "ytick.major.width": 0.7,
}
NO_DATES: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
ONE, MANY = (3.3, 2.5), (2.5, 2.0)  # inches of a panel that stands alone, of one among others
MARGIN, LETTER = 0.7, 0.062  # inches of the legend beside its text, of a letter
WRAP = 30  # letters of a line of the legend


@dataclass(frozen=True)
class Mark:
    """How one label is drawn in all panels."""

    color: str
    linestyle: Any
    marker: str


@dataclass(frozen=True)
class Drawing:
    """A figure, and what its reader must be told beside it."""

    figure: Figure
    notes: list[str]


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn and saved within is in the house style. Raises InputError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise InputError('pictures need matplotlib, which is not there: pip install "lrexp[plot]"') from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


def marks(labels: Sequence[str]) -> dict[str, Mark]:
    """A mark for each label, in the order of their first appearance; no two of the first 35 have colour and line."""
    return {
        label: Mark(COLOURS[i % len(COLOURS)], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)])
        for i, label in enumerate(dict.fromkeys(labels))
    }


def grid(rows: int, columns: int, panels: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with its axes row by row; beyond `panels` the places stay empty."""
    from matplotlib.figure import Figure

    width, height = ONE if rows * columns == 1 else MANY
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for empty in axes[panels:] if panels is not None else []:
        empty.remove()
    return figure, axes[:panels]


def outer_labels(axes: Sequence[Axes], columns: int) -> None:
    """Takes away what an axis would say again: the words of its left neighbour, and those of the one below."""
    words = [(ax.get_xlabel(), ax.get_ylabel()) for ax in axes]
    for i, ax in enumerate(axes):
        if i % columns and words[i - 1][1] == words[i][1]:
            ax.set_ylabel("")
        if i + columns < len(axes) and words[i + columns][0] == words[i][0]:
            ax.set_xlabel("")


def legend(figure: Figure, entries: Mapping[str, Artist]) -> None:
    """Names the entries right of all panels; the figure becomes wider for it."""
    texts = [_wrapped(text) for text in entries]
    letters = max(len(line) for text in texts for line in text.splitlines())
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + MARGIN + LETTER * letters, max(height, 0.17 * sum(t.count("\n") + 1 for t in texts)))
    figure.legend(list(entries.values()), texts, loc="outside right upper", handlelength=2.8, labelspacing=0.6)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in the format of the path's ending, one of FORMATS, in place of what was there.

    Raises InputError where it cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, metadata=NO_DATES[kind])
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def inline_svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element for an HTML page, which reads `title` to those who do not see it.

    Several may stand in one page: what they define under the same id is the same, and no rule of theirs reaches it.
    """
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata=NO_DATES["svg"])
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    rules = re.compile(r'\s*<defs>\s*<style type="text/css">\*\{(.*?)\}</style>\s*</defs>', re.DOTALL)
    inherited = found[1] if (found := rules.search(text)) else ""
    text = re.sub(r'<g id="[^"]*">', "<g>", rules.sub("", text))
    says = f'role="img" aria-label="{escape(title)}" style="max-width: 100%; height: auto; {inherited}"'
    return text.replace("<svg", f"<svg {says}", 1)


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, WRAP, break_long_words=False, break_on_hyphens=False))
