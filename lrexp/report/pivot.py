"""A table with one value of a key a row and one of another a column: a cell is a group's mean and half-width."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrexp.report.caption import sentences
from lrexp.report.entry import Entry, Options
from lrexp.report.group import Group
from lrexp.report.marks import brief, status
from lrexp.report.narrow import lettered
from lrexp.report.published import Published, Row
from lrexp.report.readable import mean
from lrexp.report.render import Strong, shown
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError

NAMED = ("method", "model", "dataset")  # sections that are meant by their names


@dataclass(frozen=True)
class Pivot:
    """The two keys, their values as text in the order to show them, and the entry of each pair that has runs."""

    keys: tuple[str, str]
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Entry]


def pivot(entries: Sequence[Entry], rows: str, columns: str) -> Pivot:
    """One cell for each pair of values of the keys `rows` and `columns`.

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
    cells = {place: found[0] for place, found in shared.items()}
    return Pivot((rows, columns), _values(entries, rows), _values(entries, columns), cells)


def published(table: Pivot, options: Options) -> Published:
    """The pivot for a reader. Where metrics differ they stand beside the column, the row or the cell they belong to."""
    rows, columns = table.keys
    metrics = {place: entry.group.metric or "" for place, entry in table.cells.items()}
    one = len({metric for metric in metrics.values() if metric}) <= 1
    means = {place: entry for place, entry in table.cells.items() if entry.group.summary}
    letters, legend = lettered([[brief(mark) for mark in entry.marks] for entry in means.values()])
    marked = dict(zip(means, letters, strict=True))
    by_column, by_row = _one_each(metrics, 1), _one_each(metrics, 0)
    in_columns = not one and by_column is not None
    in_rows = not one and not in_columns and by_row is not None
    heads = {name: _with_metric(name, by_column if in_columns else None) for name in table.columns}
    first = f"{rows} \\ {columns}"
    lines: list[Row] = []
    for row in table.rows:
        line: Row = {first: _with_metric(row, by_row if in_rows else None)}
        for column, head in heads.items():
            place = (row, column)
            metric = "" if one or in_columns or in_rows else metrics.get(place, "")
            line[head] = _cell(table.cells.get(place), metric, marked.get(place, ""))
        lines.append(line)
    metric = f"{max(metrics.values())} " if one else ""
    title = ", ".join([f"{metric}by {rows} and {columns}", *_shared(table)])
    caption = [*sentences(list(table.cells.values()), options), *legend]
    return Published([first, *heads.values()], lines, title, caption, [])


def _one_each(metrics: Mapping[tuple[str, str], str], side: int) -> dict[str, str] | None:
    """The metric of each row (side 0) or column (side 1), None where one of them has several."""
    found: dict[str, str] = {}
    for place, metric in metrics.items():
        if metric and found.setdefault(place[side], metric) != metric:
            return None
    return found


def _shared(table: Pivot) -> list[str]:
    """The method, model and dataset that all cells share, where they are no keys of the table."""
    groups = [entry.group for entry in table.cells.values()]
    parts = {name: {group.part(name) for group in groups} for name in NAMED if name not in table.keys}
    return [f"{name} {part}" for name, found in parts.items() if len(found) == 1 for part in found]


def _with_metric(name: str, metrics: Mapping[str, str] | None) -> str:
    return f"{name} ({metrics[name]})" if metrics and name in metrics else name


def _cell(entry: Entry | None, metric: str, letters: str) -> str | None:
    if entry is None:
        return None
    parts = [mean(entry) or status(entry.group), metric, f"[{letters}]" if letters else ""]
    text = " ".join(part for part in parts if part)
    return Strong(text) if entry.bold else text


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


def _values(entries: Sequence[Entry], key: str) -> list[str]:
    """The values of a key as text: numbers go up, names keep the order in which the entries have them."""
    values = {shown(value): value for value in (_value(entry.group, key) for entry in entries)}
    if all(isinstance(value, int | float) for value in values.values()):
        return sorted(values, key=lambda name: values[name])
    return list(values)
