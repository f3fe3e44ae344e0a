"""Parquet, JSON lines and CSV files to tables of labelled texts. Every row is read: what is wrong is known at once."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from lrexp.spec.errors import InputError
from lrexp.tasks.labelled import ClassificationData, Labelled
from lrexp.tasks.sources.columns import (
    check_columns,
    csv_rows,
    is_text,
    json_lines,
    parquet,
    refuse_null,
    text_column,
    texts,
)
from lrexp.tasks.sources.files import read_bytes
from lrexp.tasks.sources.table import Table
from lrexp.tasks.sources.values import from_text, uniform


def read_file(path: Path, data: ClassificationData) -> Table:
    """The text columns and the labels of one file.

    Raises:
        InputError: unreadable, cut short, no rows, a column missing or of another type, a null text or label.
    """
    content = read_bytes(path)
    kind = path.suffix.lower()
    if kind == ".parquet":
        return from_arrow(parquet(content, str(path), _wanted(data)), str(path), data)
    columns = (
        json_lines(content, str(path), _wanted(data))
        if kind == ".jsonl"
        else csv_rows(content, str(path), _wanted(data))
    )
    if not columns[data.label_column]:
        raise InputError(f"{path} has no rows")
    found = tuple(texts(columns[name], name, str(path)) for name in data.columns)
    label = columns[data.label_column]
    labels = from_text(label, str(path), data) if kind == ".csv" else uniform(label, str(path), data.label_column)
    return Table(str(path), found, labels)


def from_arrow(table: pa.Table, where: str, data: ClassificationData) -> Table:
    """A table of labelled texts from an arrow table, be it from a file or from the hub."""
    check_columns(table.column_names, where, _wanted(data))
    if table.num_rows == 0:
        raise InputError(f"{where} has no rows")
    found = tuple(text_column(table, name, where) for name in data.columns)
    column = table.column(data.label_column)
    refuse_null(column, data.label_column, where)
    return Table(where, found, arrow_labels(column, where, data))


def _wanted(data: ClassificationData) -> dict[str, str]:
    return dict.fromkeys(data.columns, "text_columns") | {data.label_column: "label_column"}


def arrow_labels(column: pa.ChunkedArray, where: str, data: Labelled) -> np.ndarray:
    """A column of labels as int64, float64 or object (text). Raises InputError for what is none of them."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if is_text(kind):
        return uniform(column.to_pylist(), where, data.label_column)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        try:
            return column.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            raise InputError(f"{where}: column '{data.label_column}' holds numbers beyond 64 bits") from None
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy()
    raise InputError(f"{where}: column '{data.label_column}' holds {kind}, not numbers or text")
