"""A table for readers, whatever the format: columns, rows of text, a title, a caption and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from lrexp.report import html, latex
from lrexp.report.render import render

FORMATS = ("rich", "md", "latex", "html")
Row = dict[str, object]


@dataclass(frozen=True)
class Published:
    """`caption` is what a reader must know, `notes` what went wrong, in sentences without a full stop."""

    columns: Sequence[str]
    rows: Sequence[Row]
    title: str
    caption: Sequence[str]
    notes: Sequence[str]


def write(table: Published, format: str, file: TextIO) -> None:
    """Prints the table in one of FORMATS: LaTeX and HTML as a fragment for a document."""
    if format in ("latex", "html"):
        make = latex.table if format == "latex" else html.fragment
        headed = [table.title, *table.caption] if table.title else table.caption
        file.write(make(table.columns, table.rows, headed, table.notes))
        return
    render(table.columns, table.rows, format, table.title, file)
    bullet = "- " if format == "md" else ""
    file.write("\n" + "".join(f"{bullet}{note}\n" for note in (*table.caption, *table.notes)))
