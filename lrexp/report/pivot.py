"""A table with one value of a key a row and one of another a column: a cell is a group's mean and half-width."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lrexp.report.caption import sentences
from lrexp.report.entry import Entry, Options
from lrexp.report.group import Group
from lrexp.report.marks import status
from lrexp.report.published import Published, Row
from lrexp.report.readable import mean
from lrexp.report.render import shown
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError

NAMED = ("method", "model", "dataset")  # sections that are meant by their names
Cells = Mapping[tuple[str, str], Entry]


def pivot(entries: Sequence[Entry], rows: str, columns: str) -> dict[tuple[str, str], Entry]:
    """The entry of each pair of values, as text, of the keys `rows` and `columns`; pairs without runs are left out.

    A key is a dotted one of the spec, or `method`, `model`, `dataset`, `experiment` for a name. Raises InputError for
    a key that no run has, and where several entries share a cell.
    """
    if rows == columns:
        raise InputError(f"table: --rows and --columns are both {rows}: two keys make a table")
    _check(entries, rows, "--rows")
    _check(entries, columns, "--columns")
    shared: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        shared.setdefault((shown(_value(entry.group, rows)), shown(_value(entry.group, columns))), []).append(entry)
    for (row, column), found in shared.items():
        if len(found) > 1:
            keys = ", ".join(_apart([entry.group for entry in found]))
            raise InputError(f"table: {len(found)} rows share the cell {row}, {column}: they differ in {keys}")
    return {place: found[0] for place, found in _sorted(shared, rows, columns).items()}


def published(cells: Cells, rows: str, columns: str, options: Options) -> Published:
    """The pivot for a reader. Where metrics differ they stand beside the column, the row or the cell they belong to."""
    metrics = {place: entry.group.metric or "" for place, entry in cells.items()}
    by_column, by_row = ({place[side]: set[str]() for place in cells} for side in (1, 0))
    for (row, column), metric in metrics.items():
        by_column[column] |= {metric}
        by_row[row] |= {metric}
    one = len(set(metrics.values())) == 1
    in_columns = not one and all(len(found) == 1 for found in by_column.values())
    in_rows = not one and not in_columns and all(len(found) == 1 for found in by_row.values())
    heads = {column: f"{column} ({min(found)})" if in_columns else column for column, found in by_column.items()}
    first = f"{rows} \\ {columns}"
    lines: list[Row] = []
    for row, found in by_row.items():
        line: Row = {first: f"{row} ({min(found)})" if in_rows else row}
        for column, head in heads.items():
            text = _cell(cells.get((row, column)))
            line[head] = text if one or in_columns or in_rows or text is None else f"{text} {metrics[row, column]}"
        lines.append(line)
    title = f"{min(metrics.values())} by {rows} and {columns}" if one else ""
    return Published([first, *heads.values()], lines, title, sentences(list(cells.values()), options), [])


def _cell(entry: Entry | None) -> str | None:
    return None if entry is None else mean(entry) or status(entry.group)


def _value(group: Group, key: str) -> Any:
    if key == "experiment":
        return group.experiment
    return group.part(key) if key in NAMED else group.identity.get(key)


def _check(entries: Sequence[Entry], key: str, option: str) -> None:
    known = dict.fromkeys([*NAMED, "experiment", *(key for entry in entries for key in entry.group.identity)])
    if key not in known:
        raise InputError(unknown(f"table: {option} {key}", key, known, "key of these runs"))


def _apart(groups: Sequence[Group]) -> list[str]:
    """What tells groups apart: keys, else metric, split or content."""
    keys = dict.fromkeys(key for found in groups for key in found.identity)
    values = {key: [found.identity.get(key) for found in groups] for key in keys}
    values |= {"metric": [found.metric for found in groups], "split": [found.get("evaluated_on") for found in groups]}
    found = [key.removesuffix(".name") for key, value in values.items() if len(set(map(_text, value))) > 1]
    return found or ["data or weights"]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _sorted(
    shared: Mapping[tuple[str, str], list[Entry]], rows: str, columns: str
) -> dict[tuple[str, str], list[Entry]]:
    """Numbers go up along rows and columns; names keep the order in which the entries have them."""

    def rank(side: int, key: str) -> dict[str, int]:
        values = {place[side]: _value(found[0].group, key) for place, found in shared.items()}
        if all(isinstance(value, int | float) for value in values.values()):
            return {name: index for index, name in enumerate(sorted(values, key=lambda name: values[name]))}
        return {name: index for index, name in enumerate(values)}

    down, across = rank(0, rows), rank(1, columns)
    return dict(sorted(shared.items(), key=lambda item: (down[item[0][0]], across[item[0][1]])))
