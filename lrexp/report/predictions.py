"""What single runs answered, item by item, out of their predictions.parquet (docs/result.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrexp.report.collect import Run
from lrexp.spec.errors import InputError

FILE = "predictions.parquet"
SHARES = ("accuracy", "exact_match")  # metrics that are the share of right answers
COLUMNS = ("row", "label", "prediction", "correct")


def right_answers(ours: Run, theirs: Run, metric: str) -> tuple[list[bool], list[bool]] | None:
    """Which items each of two runs answers right; None unless that is the metric and both answered the same items.

    Raises InputError for a file that cannot be read.
    """
    if metric not in SHARES:
        return None
    found = [_read(run) for run in (ours, theirs)]
    first, second = found
    if first is None or second is None or any(first.get(name) != second.get(name) for name in ("row", "label")):
        return None
    return _correct(first), _correct(second)


def _read(run: Run) -> Mapping[str, list[Any]] | None:
    """The columns by name; None where there is no file, or none of labelled data."""
    path = run.folder / FILE
    if not path.is_file():
        return None
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        names = [name for name in COLUMNS if name in parquet.read_schema(path).names]
        columns = parquet.read_table(path, columns=names).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    return columns if {"label", "prediction"} <= columns.keys() else None


def _correct(columns: Mapping[str, list[Any]]) -> list[bool]:
    if "correct" in columns:
        return [bool(value) for value in columns["correct"]]
    return [label == answer for label, answer in zip(columns["label"], columns["prediction"], strict=True)]
