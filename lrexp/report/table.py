"""The table over finished, failed and running runs: raw numbers for programs here, a reader's cells in readable.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from lrexp.report import drift
from lrexp.report.collect import Run
from lrexp.report.group import FINGERPRINTS, LARGEST, MEDIAN, Group, differing, group
from lrexp.report.marks import failures, marks, status
from lrexp.report.readable import print_readable
from lrexp.report.render import render
from lrexp.report.tuned import tuned
from lrexp.spec.result import LOWER_IS_BETTER


def print_table(runs: Sequence[Run], format: str, file: TextIO | None = None, tuned_keys: Sequence[str] = ()) -> None:
    """Prints one row for each group of `runs` over seeds in a format of `render`: raw base units for csv and json.

    Of rows that differ in `tuned_keys` alone the best is shown (see `lrexp.report.tuned`).
    """
    groups = ordered(group(runs))
    keys = differing(groups)
    if tuned_keys:
        groups = ordered(tuned(groups, tuned_keys))
    moved = drift.shown(groups)
    if format == "json":
        records = [record(found, keys) | drift.numbers(found, moved) for found in groups]
        render(list(records[0]) if records else [], records, format, file=file)
    elif format == "csv":
        flat = [_flat(record(found, keys), keys) | drift.numbers(found, moved) for found in groups]
        render(list(flat[0]) if flat else [], flat, format, file=file)
    else:
        print_readable(groups, keys, format, file or sys.stdout, tuned_keys)


def ordered(groups: Sequence[Group]) -> list[Group]:
    """By experiment, dataset and model; there the best mean comes first, rows without one last."""

    def place(found: Group) -> tuple[object, ...]:
        mean = found.summary.mean if found.summary else None
        better = 0.0 if mean is None else mean if found.metric in LOWER_IS_BETTER else -mean
        names = [found.experiment or "", found.part("dataset") or "", found.part("model") or ""]
        return (*names, mean is None, found.metric or "", better, found.part("method") or "")

    return sorted(groups, key=place)


def record(found: Group, keys: Sequence[str]) -> dict[str, object]:
    """One row in base units (numbers, bytes, seconds); `keys` holds the values in which the shown rows differ."""
    summary = found.summary
    return {
        "experiment": found.experiment,
        "dataset": found.part("dataset"),
        "model": found.part("model"),
        "method": found.part("method"),
        "keys": {key: found.identity.get(key) for key in keys},
        "seeds": found.seeds,
        "metric": found.metric,
        "evaluated_on": found.get("evaluated_on"),
        "mean": summary.mean if summary else None,
        "spread": summary.spread if summary else None,
        "interval": list(summary.interval) if summary and summary.interval else None,
        "standard_error": found.standard_error,
        "n": summary.n if summary else 0,
        **{name: found.costs[name] for name in (*LARGEST, *MEDIAN)},
        "status": status(found),
        "marks": marks(found),
        "failures": failures(found),
        **{name: found.fingerprint(name) for name in FINGERPRINTS},
        "runs": [str(run.folder) for run in found.runs],
    }


def _flat(row: dict[str, object], keys: Sequence[str]) -> dict[str, object]:
    """The same row for CSV: one value a column."""
    flat: dict[str, object] = {}
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
