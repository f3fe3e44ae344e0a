"""The table for a reader: few columns, humane units, what went wrong in lines below."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from lrexp.report import drift, quantity
from lrexp.report.caption import sentences
from lrexp.report.entry import Entry, Options
from lrexp.report.group import FINGERPRINTS, PLANNED
from lrexp.report.labels import BARE, short_keys
from lrexp.report.marks import brief, failures, unfinished
from lrexp.report.narrow import SHORT, left_out, narrowed
from lrexp.report.published import Published, Row
from lrexp.report.render import Strong, shown
from lrexp.report.significance import OVER_ITEMS

P_VALUE = "p (Holm)"
OPTIONAL = ("experiment", "reported", "difference", P_VALUE, "planned memory", "marks")  # where no row has one
TAKEN = {"experiment", "dataset", "model", "method", "seeds", "rates", "metric", "on", "mean", "data", "weights"}
TAKEN |= {"status", *OPTIONAL, *SHORT.values()}
TAKEN |= BARE


def readable(entries: Sequence[Entry], keys: Sequence[str], options: Options, format: str, file: TextIO) -> Published:
    """The table of `entries`, which differ in `keys`, for a format of `published`; narrower for a terminal and LaTeX.

    `file` is where it will be printed: the columns of a terminal are as many as it can show.
    """
    names = short_keys(keys, TAKEN)
    moved = drift.shown([entry.group for entry in entries])
    rows = [_row(entry, names, moved) for entry in entries]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns = [column for column in columns if column not in OPTIONAL or any(row[column] for row in rows)]
    columns = _one_metric(columns, rows)
    columns = _told_apart(columns, rows, entries, ["experiment", "dataset", "model", "method", *names.values()])
    caption, notes, title = sentences(entries, options), _notes(entries), ""
    if format in ("rich", "latex"):
        columns, title, legend = narrowed(columns, rows, [_marks(entry) for entry in entries])
        caption = [*caption, *legend]
    if format == "rich" and (spared := left_out(columns, rows, file)):
        columns = [column for column in columns if column not in spared]
        caption = [*caption, f"left out, the terminal is narrow: {', '.join(spared)} (--format md shows all)"]
    return Published(columns, rows, title, caption, notes)


def mean(entry: Entry) -> str | None:
    """The mean and the half-width of its interval, or one seed's standard error; bold where the test allows it."""
    summary = entry.group.summary
    if summary is None:
        return None
    text = quantity.metric(summary.mean) or ""
    if summary.half_width is not None:
        text = f"{text} ± {quantity.metric(summary.half_width)}"
    elif entry.group.standard_error is not None:
        text = f"{text} (se {quantity.metric(entry.group.standard_error)})"
    return Strong(text) if entry.bold else text


def _row(entry: Entry, names: dict[str, str], moved: dict[str, str]) -> Row:
    found, costs = entry.group, entry.group.costs
    return {
        "experiment": found.experiment,
        "dataset": found.part("dataset"),
        "model": found.part("model"),
        "method": found.part("method"),
        **{name: found.identity.get(key) for key, name in names.items()},
        "seeds": found.summary.n if found.summary else 0,
        "rates": entry.rates_tried,
        "metric": found.metric,
        "on": found.get("evaluated_on"),
        "mean": mean(entry),
        "reported": f"{quantity.metric(entry.reported.value)} (copied)" if entry.reported else None,
        "difference": quantity.difference(entry.comparison.test.difference) if entry.comparison else None,
        P_VALUE: _p_value(entry),
        "trainable parameters": quantity.count(costs["trainable_parameters"]),
        "planned memory": quantity.memory(costs[PLANNED]),
        "peak memory": quantity.memory(costs["peak_memory_bytes"]),
        "preparation": quantity.duration(costs["prepare_seconds"]),
        "step time": quantity.duration(costs["step_seconds"]),
        "training time": quantity.duration(costs["train_seconds"]),
        **drift.cells(found, moved),
        "status": ", ".join(unfinished(found)) or "finished",
        "marks": "; ".join(_marks(entry)),
    }


def _marks(entry: Entry) -> list[str]:
    """All but how runs ended, which is the row's status."""
    ended = unfinished(entry.group)
    return [brief(mark) for mark in entry.marks if mark not in ended]


def _p_value(entry: Entry) -> str | None:
    if entry.comparison is None or entry.comparison.corrected is None:
        return None
    text = quantity.p_value(entry.comparison.corrected)
    return f"{text} {OVER_ITEMS}" if entry.comparison.test.name == OVER_ITEMS else text


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


def _told_apart(columns: list[str], rows: list[Row], entries: Sequence[Entry], labels: list[str]) -> list[str]:
    """Adds the beginning of a fingerprint where rows would look the same without it."""
    for column, field in zip(("data", "weights"), FINGERPRINTS, strict=True):
        looks: dict[tuple[str, ...], set[str | None]] = {}
        for row, entry in zip(rows, entries, strict=True):
            content = entry.group.fingerprint(field)
            row[column] = (content or "")[:6]
            looks.setdefault(tuple(shown(row.get(label)) for label in labels), set()).add(content)
        if any(len(found - {None}) > 1 for found in looks.values()):
            place = columns.index("seeds")
            columns = [*columns[:place], column, *columns[place:]]
            labels = [*labels, column]
    return columns


def _notes(entries: Sequence[Entry]) -> list[str]:
    """Failed runs with what they said, and marks that are too long for a cell."""
    notes = []
    for entry in entries:
        for failure in failures(entry.group):
            error = str(failure["error"]).removeprefix(f"{failure['run']}{os.sep}")
            at = f" at step {failure['step']}"
            said = failure["step"] is None or at in error
            notes.append(f"{failure['status']}{'' if said else at}: {failure['run']}: {error}")
        notes += [f"{entry.group.part('method')}: {mark}" for mark in entry.marks if ":" in mark]
    return notes
