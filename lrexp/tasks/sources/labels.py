"""Labels as files hold them to classes counted from 0, the same ones for all splits, or to regression targets."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from lrexp.spec.convert import nearest
from lrexp.spec.errors import InputError
from lrexp.tasks.labelled import Labelled
from lrexp.tasks.sources.table import Rows, Source, Table

_SHOWN = 12


def labelled(tables: Mapping[str, Sequence[Table]], data: Labelled) -> Source:
    """The splits of a source from the tables of their files, "train" among them.

    Whole-number labels are the classes 0 to K - 1; text labels are sorted, or stand in the order of `data.labels`.
    Whole numbers are taken by name where all of `data.labels` are numbers themselves ([1, 2, 3, 4, 5]).

    Raises:
        InputError: a label that is out of range, unknown, of the wrong type or not finite; train with one class only.
    """
    if data.task == "regression":
        names, convert = None, _targets
    else:
        names = data.labels or _names(tables["train"], data)
        convert = _classes
    splits = {}
    for split, parts in tables.items():
        labels = np.concatenate([convert(table, names, data) for table in parts])
        texts = tuple(_joined([table.texts[i] for table in parts]) for i in range(len(data.columns)))
        splits[split] = Rows(texts, labels)
    if names is not None and len(np.unique(splits["train"].labels)) < 2:
        raise InputError(
            f"{tables['train'][0].where}: all labels are '{names[splits['train'].labels[0]]}': two classes are needed"
        )
    return Source(splits, names)


def _names(tables: Sequence[Table], data: Labelled) -> tuple[str, ...]:
    """The classes that train shows."""
    for table in tables:
        _refuse_decimals(table, data)
    if all(table.labels.dtype == object for table in tables):
        return tuple(sorted({str(label) for table in tables for label in table.labels}))
    there = np.unique(np.concatenate([table.labels for table in tables if table.labels.dtype != object]))
    if there[0] == 0 and there[-1] == len(there) - 1:
        return tuple(map(str, there))
    wrong = there[there != np.arange(len(there))][0]
    table, row = next((t, int(np.argmax(t.labels == wrong)) + 1) for t in tables if (t.labels == wrong).any())
    shown = ", ".join(map(str, there[:_SHOWN])) + (", ..." if len(there) > _SHOWN else "")
    raise InputError(
        f"{table.where}: row {row} has the label {wrong}, out of range: classes count from 0 without a gap, "
        f"found {shown}. Other numbers need their names: dataset.labels=[1,2,3]"
    )


def _classes(table: Table, names: tuple[str, ...] | None, data: Labelled) -> np.ndarray:
    assert names is not None
    _refuse_decimals(table, data)
    if table.labels.dtype != object and _are_counted(names, data):
        return _in_range(table, names, data)
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index.get(str(label), -1) for label in table.labels], dtype=np.int64)
    if (labels < 0).any():
        row = int(np.argmax(labels < 0))
        raise _unknown(table, row, names, data)
    return labels


def _are_counted(names: tuple[str, ...], data: Labelled) -> bool:
    """Whether a whole-number label is the number of its class, not the class's name."""
    if data.labels is None:
        return names == tuple(map(str, range(len(names))))
    return not all(name.lstrip("-").isdigit() for name in names)


def _in_range(table: Table, names: tuple[str, ...], data: Labelled) -> np.ndarray:
    outside = (table.labels < 0) | (table.labels >= len(names))
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(
            f"{table.where}: row {row + 1} has the label {table.labels[row]} in column '{data.label_column}', "
            f"out of range: the classes are 0 to {len(names) - 1}"
        )
    return table.labels


def _unknown(table: Table, row: int, names: tuple[str, ...], data: Labelled) -> InputError:
    label = str(table.labels[row])
    near = nearest(label, names)
    origin = "dataset.labels has" if data.labels else "train has"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return InputError(
        f"{table.where}: row {row + 1} has the unknown label {label!r:.40} in column '{data.label_column}'"
        f"{f' ({near})' if near else ''}; {origin} {shown}"
    )


def _refuse_decimals(table: Table, data: Labelled) -> None:
    if table.labels.dtype != np.float64:
        return
    missing = np.isnan(table.labels)
    if missing.any():
        raise InputError(
            f"{table.where}: row {np.argmax(missing) + 1} has nothing in column '{data.label_column}' (NaN)"
        )
    row = int(np.argmax(table.labels != np.round(table.labels)))
    raise InputError(
        f"{table.where}: row {row + 1} has {table.labels[row]} in column '{data.label_column}': classes are whole "
        "numbers or text; dataset.task=regression takes decimals"
    )


def _targets(table: Table, names: tuple[str, ...] | None, data: Labelled) -> np.ndarray:
    if table.labels.dtype == object:
        raise InputError(
            f"{table.where}: column '{data.label_column}' holds text ({table.labels[0]!r:.40}), not targets"
        )
    targets = table.labels.astype(np.float64)
    wrong = ~np.isfinite(targets)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{table.where}: row {row + 1} has {targets[row]} in column '{data.label_column}': no finite number"
        )
    return targets


def _joined(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array(
        [chunk for column in columns for chunk in column.cast(pa.large_string()).chunks], pa.large_string()
    )
