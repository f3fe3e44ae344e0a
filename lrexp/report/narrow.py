"""A reader's table made narrower, for a terminal and for a page: what all rows share goes into words around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TextIO

from lrexp.report import drift
from lrexp.report.published import Row
from lrexp.report.render import GAP, shown

SHORT = {
    "trainable parameters": "trained",
    "planned memory": "planned",
    "peak memory": "memory",
    "preparation": "prepare",
    "step time": "step",
    "training time": "train",
}
SPARE = ("train", "prepare", "step", "difference", "planned", "memory", *drift.COLUMNS)  # left out in this order
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def narrowed(
    columns: Sequence[str], rows: list[Row], marks: Sequence[Sequence[str]]
) -> tuple[list[str], str, list[str]]:
    """The columns that are left, a title with what is the same in all rows, and sentences that explain the marks.

    `rows` get short columns, and letters for their `marks`.
    """
    for row in rows:
        row |= {short: row[long] for long, short in SHORT.items()}
        row["status"] = re.sub(r" \(steps? [\d, ]+\)", "", str(row["status"]))  # the notes say it
    columns, title = _constant([SHORT.get(column, column) for column in columns], rows)
    letters, legend = lettered(marks)
    for row, text in zip(rows, letters, strict=True):
        row["marks"] = text
    if not any(row["marks"] for row in rows):
        columns = [column for column in columns if column != "marks"]
    return columns, title, legend


def left_out(columns: Sequence[str], rows: Sequence[Row], file: TextIO) -> list[str]:
    """Spare columns that do not fit beside the others in the terminal; none where the output is no terminal."""
    if not file.isatty():
        return []
    from rich.console import Console

    cells = {column: [column, *(shown(row.get(column)) for row in rows)] for column in columns}
    widths = {column: max(map(len, texts)) for column, texts in cells.items()}
    found: list[str] = []
    for column in SPARE:
        if sum(widths.values()) + GAP * len(widths) <= Console(file=file).width:
            break
        found += [column] * (widths.pop(column, None) is not None)
    return found


def _constant(columns: list[str], rows: list[Row]) -> tuple[list[str], str]:
    """What is the same in all rows of experiment, dataset and model goes into a title; what is usual goes."""
    same = [column for column in columns if len({shown(row.get(column)) for row in rows}) == 1]
    named = [column for column in ("experiment", "dataset", "model") if column in same and rows[0][column]]
    dropped = {*named, *(["rates"] if "rates" in same else [])}
    dropped |= {"status"} if all(row["status"] == "finished" for row in rows) else set()
    title = ", ".join(f"{column} {rows[0][column]}" for column in named)
    return [column for column in columns if column not in dropped], title


def lettered(marks: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Letters for the marks of each row or cell, joined, without what marks all; and sentences that explain them."""
    every = list(dict.fromkeys(mark for found in marks for mark in found))
    shared = [mark for mark in every if all(mark in found for found in marks)]
    names = dict(zip([mark for mark in every if mark not in shared], LETTERS, strict=False))
    letters = [", ".join(names.get(mark, mark) for mark in found if mark not in shared) for found in marks]
    legend = [f"marks of all: {', '.join(shared)}"] if shared else []
    return letters, legend + (
        [f"marks: {'; '.join(f'{name} {mark}' for mark, name in names.items())}"] if names else []
    )
