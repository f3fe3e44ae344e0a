"""Columns of Parquet, JSON and CSV files by name. Every row is read: what is wrong is known at once."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lrexp.spec.convert import nearest
from lrexp.spec.errors import InputError
from lrexp.tasks.sources.files import decoded, read_bytes

_SHOWN_COLUMNS = 12
Wanted = Mapping[str, str]  # columns, and the key of the dataset section that names each


def read_texts(path: Path, wanted: Wanted, optional: Collection[str] = ()) -> dict[str, list[str]]:
    """Columns of text of one file, one entry a row; in `optional` ones nothing is an empty text.

    Raises:
        InputError: unreadable, cut short, no rows, a column missing or of another type, a null.
    """
    content, where = read_bytes(path), str(path)
    if path.suffix.lower() == ".parquet":
        table = parquet(content, where, wanted)
        return {name: text_column(table, name, where, name in optional).to_pylist() for name in wanted}
    read = {".jsonl": json_lines, ".json": json_list}.get(path.suffix.lower(), csv_rows)
    columns = read(content, where, wanted)
    if not next(iter(columns.values())):
        raise InputError(f"{where} has no rows")
    for name in optional:
        columns[name] = ["" if value is None else value for value in columns[name]]
    return {name: texts(values, name, where).to_pylist() for name, values in columns.items()}


def text_column(table: pa.Table, name: str, where: str, is_optional: bool = False) -> pa.ChunkedArray:
    """A column of text without nulls, which are empty texts in an optional one. Raises InputError for any other."""
    column = table.column(name)
    if is_optional:
        column = (column.cast(pa.string()) if pa.types.is_null(column.type) else column).fill_null("")
    if table.num_rows == 0:
        raise InputError(f"{where} has no rows")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not is_text(column.type):
        raise InputError(f"{where}: column '{name}' holds {column.type}, not text")
    refuse_null(column, name, where)
    return column


def check_columns(there: Sequence[str], where: str, wanted: Wanted) -> None:
    """Raises InputError for a column of the dataset section that a file lacks, with the nearest name."""
    for name, key in wanted.items():
        if there.count(name) > 1:
            raise InputError(f"{where} has {there.count(name)} columns '{name}'")
        if name in there:
            continue
        near = nearest(name, there)
        hint = f" ({near})" if near else ""
        shown = ", ".join(there[:_SHOWN_COLUMNS]) + (", ..." if len(there) > _SHOWN_COLUMNS else "")
        raise InputError(
            f"{where} has no column '{name}'{hint}. Its columns: {shown}; dataset.{key} says which is read"
        )


def parquet(content: bytes, where: str, wanted: Wanted) -> pa.Table:
    """The wanted columns of a Parquet file. Raises InputError for one that is damaged or lacks a column."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        check_columns(file.schema_arrow.names, where, wanted)
        table = file.read(list(wanted))
        table.validate(full=True)  # text that is not UTF-8
        return table
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{where} is not a whole Parquet file; cut short? ({said})") from None


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def refuse_null(column: pa.ChunkedArray, name: str, where: str) -> None:
    """Raises InputError, with the row, where the column has a null."""
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1  # pyright: ignore[reportAttributeAccessIssue]
        raise InputError(f"{where}: row {row} has nothing in column '{name}'")


def json_lines(content: bytes, where: str, wanted: Wanted) -> dict[str, list[Any]]:
    """The wanted columns of JSON lines. Raises InputError, with the line, for what is no object or lacks a column."""
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for number, line in enumerate(decoded(content, where).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise InputError(f"{where}: line {number} is not a JSON object; cut short?") from None
        except RecursionError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{where}: line {number} is not a JSON object of column names and values")
        if not columns.keys() <= row.keys():
            check_columns(list(row), f"{where}: line {number}", wanted)
        for name, values in columns.items():
            values.append(row[name])
    return columns


def json_list(content: bytes, where: str, wanted: Wanted) -> dict[str, list[Any]]:
    """The wanted columns of a file that is one JSON list of objects, or JSON lines. Raises InputError, with the row."""
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return json_lines(content, where, wanted)
    try:
        rows = json.loads(decoded(content, where))
    except (ValueError, RecursionError):
        raise InputError(f"{where} is not a whole JSON list; cut short?") from None
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{where}: row {number} is not a JSON object of column names and values")
        if not columns.keys() <= row.keys():
            check_columns(list(row), f"{where}: row {number}", wanted)
        for name, values in columns.items():
            values.append(row[name])
    return columns


def csv_rows(content: bytes, where: str, wanted: Wanted) -> dict[str, list[Any]]:
    """The wanted columns of a CSV file with a header; an empty field is None. Raises InputError, with the line."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit, 128 kB, would refuse long texts
    reader = csv.reader(io.StringIO(decoded(content, where), newline=""), strict=True)
    try:
        header = next((row for row in reader if row), [])
        check_columns(header, where, wanted)
        places = {name: header.index(name) for name in wanted}
        columns: dict[str, list[Any]] = {name: [] for name in places}
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{where}: line {reader.line_num} has {len(row)} fields, the header {len(header)}; cut short?"
                )
            for name, index in places.items():
                columns[name].append(row[index] or None)  # CSV has no other way to leave a field out
    except csv.Error as error:
        raise InputError(f"{where}: line {reader.line_num} is not CSV ({error}); cut short?") from None
    return columns


def texts(values: list[Any], name: str, where: str) -> pa.ChunkedArray:
    """A column of text. Raises InputError, with the row, for what is none."""
    for row, value in enumerate(values, start=1):
        if value is None:
            raise InputError(f"{where}: row {row} has nothing in column '{name}'")
        if not isinstance(value, str):
            raise InputError(f"{where}: row {row} has {json.dumps(value)[:40]} in column '{name}', not text")
    try:
        return pa.chunked_array([pa.array(values, pa.large_string())])
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise InputError(f"{where}: column '{name}' has a character that UTF-8 cannot hold") from None
