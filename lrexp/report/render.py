"""Prints a table as rich text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

FORMATS = ("rich", "md", "csv", "json")
UNBOUNDED = (
    100_000  # columns of a terminal that never folds: where the output is not a terminal nothing may be cut or wrapped
)
GAP = 2  # columns between two columns
LEAST = 8  # columns of a column that folds
MOST_OF_NAME = 30


class Strong(str):
    """Text of a cell that is set in bold where the format can do so."""


def render(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, object]],
    format: str = "rich",
    title: str = "",
    file: TextIO | None = None,
) -> None:
    """Prints `rows` under `columns` (keys of the rows; an absent key is an empty cell) in one of FORMATS.

    JSON (a list of objects) and CSV (RFC 4180) keep values as they are and leave the title out, so that programs can
    read them; rich and Markdown round floats to six digits.
    """
    out = file or sys.stdout
    cells = [[row.get(column) for column in columns] for row in rows]
    if format == "json":
        objects = [{column: _finite(value) for column, value in zip(columns, row, strict=True)} for row in cells]
        out.write(json.dumps(objects, indent=2, allow_nan=False) + "\n")
    elif format == "csv":
        writer = csv.writer(out)
        writer.writerows([columns, *([plain(value) for value in row] for row in cells)])
    elif format == "md":
        out.write(_markdown(columns, cells, title))
    elif format == "rich":
        _rich(columns, cells, title, out)
    else:
        raise ValueError(f"format is {format!r}: one of {', '.join(FORMATS)}")


def shown(value: object) -> str:
    """One cell for a reader: floats to six digits, nothing as a dash, lists and mappings as in YAML."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(value)


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity: null stands for them."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: object) -> str:
    """A value as YAML writes it on one line, numbers in full; nothing is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_inner(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_inner(item)}' for key, item in value.items())}}}"
    return str(value)


def _inner(value: object) -> str:
    return "null" if value is None else plain(value)


def _markdown(columns: Sequence[str], cells: list[list[object]], title: str) -> str:
    lines = [[_escaped(column) for column in columns]]
    lines += [[_cell(value) for value in row] for row in cells]
    rule = ["---:" if numeric else "---" for numeric in _numeric(columns, cells)]
    body = "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])
    return f"{title}\n\n{body}" if title else body


def _cell(value: object) -> str:
    text = _escaped(shown(value))
    return f"**{text}**" if isinstance(value, Strong) else text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _numeric(columns: Sequence[str], cells: list[list[object]]) -> list[bool]:
    """Which columns hold nothing but numbers: they are set to the right."""
    found = []
    for index in range(len(columns)):
        values = [row[index] for row in cells if row[index] not in (None, "")]
        found.append(bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values))
    return found


def _rich(columns: Sequence[str], cells: list[list[object]], title: str, out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    texts = [[shown(value) for value in row] for row in cells]
    available = Console(file=out).width if out.isatty() else UNBOUNDED
    widths = _widths([[*columns], *texts], available)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column, numeric, width in zip(columns, _numeric(columns, cells), widths, strict=True):
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold", width=width)
    for row, values in zip(texts, cells, strict=True):
        styles = ["bold" if isinstance(value, Strong) else "" for value in values]
        table.add_row(*(Text(text, style=style) for text, style in zip(row, styles, strict=True)))
    console = Console(file=out, width=max(available, sum(widths) + GAP * len(widths)), highlight=False)
    with console.capture() as capture:
        console.print(table)
    heading = f"{title}\n\n" if title else ""
    out.write(heading + "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n")


def _widths(texts: list[list[str]], available: int) -> list[int]:
    """Widths of the columns within a terminal: the column that would be tallest is widened until the line is full.

    The first column holds names and folds last. Where the terminal is too narrow for the least widths, they stand.
    """
    natural = [max(len(cell) for cell in column) for column in zip(*texts, strict=True)]
    if sum(natural) + GAP * len(natural) <= available:
        return natural
    widths = [min(width, MOST_OF_NAME if i == 0 else LEAST) for i, width in enumerate(natural)]
    for _ in range(available - sum(widths) - GAP * len(natural)):
        tallest = max(range(len(natural)), key=lambda i: natural[i] / widths[i])
        widths[tallest] += 1
    return widths
