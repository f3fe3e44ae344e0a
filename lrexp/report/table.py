"""The table over finished, failed and running runs: raw numbers for programs here, a reader's cells in readable.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from lrexp.report import drift, published
from lrexp.report.collect import Run
from lrexp.report.entry import Entry, Options, entries
from lrexp.report.group import FINGERPRINTS, LARGEST, MEDIAN, PLANNED
from lrexp.report.marks import failures, status
from lrexp.report.pivot import pivot
from lrexp.report.pivot import published as published_pivot
from lrexp.report.readable import readable
from lrexp.report.render import render

FORMATS = ("rich", "md", "latex", "csv", "json", "html")
NO_OPTIONS = Options()
Record = dict[str, object]


def print_table(runs: Sequence[Run], format: str, file: TextIO | None = None, options: Options = NO_OPTIONS) -> None:
    """Prints one row for each group of `runs` over seeds in one of FORMATS: raw base units for csv and json.

    Raises InputError where `options` name what the runs do not have.
    """
    out = file or sys.stdout
    found, keys = entries(runs, options)
    if format in published.FORMATS:
        published.write(readable(found, keys, options, format, out), format, out)
    else:
        moved = drift.shown([entry.group for entry in found])
        records = [record(entry, keys) | drift.numbers(entry.group, moved) for entry in found]
        _print_records(records, keys, format, out)


def print_pivot(
    runs: Sequence[Run], rows: str, columns: str, format: str, options: Options, file: TextIO | None = None
) -> None:
    """Prints a row for each value of the key `rows`, a column for each of `columns`; csv and json have one row a cell.

    Raises InputError as `print_table`, and where several groups share a cell.
    """
    out = file or sys.stdout
    found, keys = entries(runs, options)
    table = pivot(found, rows, columns)
    if format in published.FORMATS:
        published.write(published_pivot(table, options), format, out)
    else:
        places = [(row, column) for row in table.rows for column in table.columns if (row, column) in table.cells]
        records = [{"row": row, "column": column, **record(table.cells[row, column], keys)} for row, column in places]
        _print_records(records, keys, format, out)


def record(entry: Entry, keys: Sequence[str]) -> Record:
    """One row in base units (numbers, bytes, seconds); `keys` holds the values in which the shown rows differ."""
    found = entry.group
    summary, compared = found.summary, entry.comparison
    test = compared.test if compared else None
    return {
        "experiment": found.experiment,
        "dataset": found.part("dataset"),
        "model": found.part("model"),
        "method": found.part("method"),
        "keys": {key: found.identity.get(key) for key in keys},
        "seeds": found.seeds,
        "rates_tried": entry.rates_tried,
        "metric": found.metric,
        "evaluated_on": found.get("evaluated_on"),
        "mean": summary.mean if summary else None,
        "spread": summary.spread if summary else None,
        "interval": list(summary.interval) if summary and summary.interval else None,
        "standard_error": found.standard_error,
        "n": summary.n if summary else 0,
        "difference": test.difference if test else None,
        "pairs": test.pairs if test else None,
        "test": test.name if test else None,
        "p_value": test.p_value if test else None,
        "p_value_corrected": compared.corrected if compared else None,
        "reported": entry.reported.value if entry.reported else None,
        "reported_in": entry.reported.source if entry.reported else None,
        **{name: found.costs[name] for name in (*LARGEST, PLANNED, *MEDIAN)},
        "status": status(found),
        "marks": entry.marks,
        "failures": failures(found),
        **{name: found.fingerprint(name) for name in FINGERPRINTS},
        "runs": [str(run.folder) for run in found.runs],
    }


def _print_records(records: list[Record], keys: Sequence[str], format: str, out: TextIO) -> None:
    rows = records if format == "json" else [_flat(row, keys) for row in records]
    render(list(rows[0]) if rows else [], rows, format, file=out)


def _flat(row: Record, keys: Sequence[str]) -> Record:
    """The same row for CSV: one value a column."""
    flat: Record = {}
    for name, value in row.items():
        if name == "keys" and isinstance(value, dict):
            flat |= {key: value[key] for key in keys}
        elif name == "interval":
            low, high = value if isinstance(value, list) else (None, None)
            flat |= {"interval_low": low, "interval_high": high}
        elif name == "failures" and isinstance(value, list):
            flat[name] = "; ".join(f"{failure['run']}: {failure['error']}" for failure in value)
        elif name == "seeds" and isinstance(value, list):
            flat[name] = " ".join(map(str, value))
        elif name in ("marks", "runs") and isinstance(value, list):
            flat[name] = "; ".join(value)
        else:
            flat[name] = value
    return flat
