"""The table for a reader: few columns, humane units, what went wrong in lines below."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from lrexp.report import drift, quantity
from lrexp.report.group import FINGERPRINTS, Group
from lrexp.report.marks import failures, marks
from lrexp.report.render import GAP, render, shown

Row = dict[str, object]
INTERVAL = "95 % interval"
SHORT = {"trainable parameters": "trained", "peak memory": "memory", "step time": "step", "training time": "train"}
SPARE = (INTERVAL, "train", "step", "memory", *drift.COLUMNS)  # left out in this order where a terminal is too narrow
TAKEN = {"experiment", "dataset", "model", "method", "seeds", "metric", "on", "mean", "data", "weights", "status"}
TAKEN |= {*SHORT.values(), "name", "path", "hub", "revision"}  # the last four say little without their section


def print_readable(
    groups: Sequence[Group], keys: Sequence[str], format: str, file: TextIO, tuned_keys: Sequence[str] = ()
) -> None:
    """Prints a rich or Markdown table of `groups` and its notes."""
    names = _short(keys)
    moved = drift.shown(groups)
    rows = [_row(found, names, moved) for found in groups]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns = _one_metric(columns, rows)
    if not any(row["experiment"] for row in rows):
        columns.remove("experiment")
    columns = _told_apart(columns, rows, groups, ["experiment", "dataset", "model", "method", *names.values()])
    title, left_out = "", []
    if format == "rich":
        columns, title = _constant(_shortened(columns, rows), rows)
        left_out = _too_many(columns, rows, file)
        columns = [column for column in columns if column not in left_out]
    render(columns, rows, format, title, file)
    bullet = "- " if format == "md" else ""
    file.write("\n" + "".join(f"{bullet}{note}\n" for note in _notes(groups, left_out, tuned_keys)))


def _row(found: Group, names: dict[str, str], moved: dict[str, str]) -> Row:
    summary, costs = found.summary, found.costs
    interval = summary.interval if summary else None
    return {
        "experiment": found.experiment,
        "dataset": found.part("dataset"),
        "model": found.part("model"),
        "method": found.part("method"),
        **{name: found.identity.get(key) for key, name in names.items()},
        "seeds": summary.n if summary else 0,
        "metric": found.metric,
        "on": found.get("evaluated_on"),
        "mean": _mean(found),
        INTERVAL: f"{quantity.metric(interval[0])} to {quantity.metric(interval[1])}" if interval else None,
        "trainable parameters": quantity.count(costs["trainable_parameters"]),
        "peak memory": quantity.memory(costs["peak_memory_bytes"]),
        "step time": quantity.duration(costs["step_seconds"]),
        "training time": quantity.duration(costs["train_seconds"]),
        **drift.cells(found, moved),
        "status": ", ".join(mark.partition(":")[0] for mark in marks(found)) or "finished",
    }


def _mean(found: Group) -> str | None:
    if found.summary is None:
        return None
    mean = quantity.metric(found.summary.mean)
    if found.summary.spread is not None:
        return f"{mean} ± {quantity.metric(found.summary.spread)}"
    return f"{mean} (se {quantity.metric(found.standard_error)})" if found.standard_error is not None else mean


def _short(keys: Sequence[str]) -> dict[str, str]:
    """method.r as r, where no other key ends so and no column is called so."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 and end not in TAKEN else key for key in keys}


def _one_metric(columns: list[str], rows: list[Row]) -> list[str]:
    """Where all rows have one metric, its exact name heads the column of its means."""
    metrics = {row["metric"] for row in rows if row["metric"]}
    if len({row["on"] for row in rows if row["on"]}) < 2:
        columns = [column for column in columns if column != "on"]
    if len(metrics) != 1:
        return columns
    name = str(metrics.pop())
    for row in rows:
        row[name] = row["mean"]
    return [name if column == "mean" else column for column in columns if column != "metric"]


def _told_apart(columns: list[str], rows: list[Row], groups: Sequence[Group], labels: list[str]) -> list[str]:
    """Adds the beginning of a fingerprint where rows would look the same without it."""
    for column, field in zip(("data", "weights"), FINGERPRINTS, strict=True):
        looks: dict[tuple[str, ...], set[str | None]] = {}
        for row, found in zip(rows, groups, strict=True):
            content = found.fingerprint(field)
            row[column] = (content or "")[:6]
            looks.setdefault(tuple(shown(row.get(label)) for label in labels), set()).add(content)
        if any(len(found - {None}) > 1 for found in looks.values()):
            place = columns.index("seeds")
            columns = [*columns[:place], column, *columns[place:]]
            labels = [*labels, column]
    return columns


def _shortened(columns: list[str], rows: list[Row]) -> list[str]:
    for row in rows:
        row |= {short: row[long] for long, short in SHORT.items()}
        row["status"] = re.sub(r" \(steps? [\d, ]+\)", "", str(row["status"]))  # the notes say it
    return [SHORT.get(column, column) for column in columns]


def _constant(columns: list[str], rows: list[Row]) -> tuple[list[str], str]:
    """What is the same in all rows of experiment, dataset and model goes from the columns into a title."""
    same = [
        column
        for column in ("experiment", "dataset", "model")
        if column in columns and len({row[column] for row in rows}) == 1 and rows[0][column]
    ]
    title = ", ".join(f"{column} {rows[0][column]}" for column in same)
    return [column for column in columns if column not in same], title


def _too_many(columns: list[str], rows: list[Row], file: TextIO) -> list[str]:
    """Spare columns that do not fit beside the others in the terminal; none where the output is no terminal."""
    if not file.isatty():
        return []
    from rich.console import Console

    cells = {column: [column, *(shown(row.get(column)) for row in rows)] for column in columns}
    widths = {column: max(map(len, texts)) for column, texts in cells.items()}
    left_out: list[str] = []
    for column in SPARE:
        if sum(widths.values()) + GAP * len(widths) <= Console(file=file).width:
            break
        left_out += [column] * (widths.pop(column, None) is not None)
    return left_out


def _notes(groups: Sequence[Group], left_out: list[str], tuned_keys: Sequence[str]) -> list[str]:
    notes = []
    splits = {found.get("evaluated_on") for found in groups} - {None}
    on = f"on {splits.pop()}: " if len(splits) == 1 else ""
    if any(found.summary for found in groups):
        notes.append(f"{on}mean ± standard deviation over seeds; se: one seed's standard error over items")
    if tuned_keys:
        notes.append(f"best {', '.join(tuned_keys)} of each row, by the mean on data that are held out for it")
    if left_out:
        notes.append(f"left out, the terminal is narrow: {', '.join(left_out)} (--format md shows all)")
    for found in groups:
        for failure in failures(found):
            error = str(failure["error"]).removeprefix(f"{failure['run']}{os.sep}")
            at = f" at step {failure['step']}"
            said = failure["step"] is None or at in error
            notes.append(f"{failure['status']}{'' if said else at}: {failure['run']}: {error}")
        notes += [f"{found.part('method')}: {mark}" for mark in marks(found) if ":" in mark]
    return notes
