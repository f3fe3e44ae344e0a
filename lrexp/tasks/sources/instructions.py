"""Rows of prompts and completions: a person's own files or a data set on the hub, the test from elsewhere if asked.

A folder's splits are named as for labelled texts; .json files (a list of objects, or JSON lines) are read beside
.parquet, .jsonl and .csv. `test_path` and `test_hub` name a file, or a data set with a test split, that is evaluated
instead of what lies beside train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.spec.errors import InputError
from lrexp.tasks.instruction import InstructionData
from lrexp.tasks.sources import files

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (*files.SUFFIXES, ".json")
Columns = dict[str, list[str]]  # by name, one text a row


def fingerprint(data: InstructionData) -> str:
    """Hash of the bytes of the files that are read, and of the values of what comes from the hub."""
    own = files.content_hash(_files(data.path)) if data.path else _hub_hash(data.hub, data.hub_config, data)
    if data.test_path:
        test = files.content_hash(_test_files(data.test_path))
    elif data.test_hub:
        test = _hub_hash(data.test_hub, data.test_hub_config, data)
    else:
        return own
    return hashlib.sha256(f"{own}\0test\0{test}".encode()).hexdigest()


def names(data: InstructionData) -> tuple[str, ...]:
    """The splits that the data has. Raises InputError where nothing is found."""
    return tuple(_places(data))


def read(data: InstructionData, answered: Collection[str]) -> dict[str, Columns]:
    """The columns that the templates name, by split, those of the answers for the splits in `answered`.

    Raises InputError naming the file and the row or the column.
    """
    from lrexp.tasks.sources.columns import check_columns, read_texts, text_column  # pyarrow

    found: dict[str, Columns] = {}
    for split, place in _places(data).items():
        wanted = data.columns_of(split, split in answered)
        optional = data.prompt_of(split).columns if data.prompt_if_empty_of(split) else ()
        if isinstance(place, tuple):
            parts = [read_texts(path, wanted, optional) for path in place]
            found[split] = {name: [text for part in parts for text in part[name]] for name in wanted}
            continue
        where = f"{data.test_hub if split == 'test' and data.test_hub else data.hub} {split}"
        check_columns(place.column_names, where, wanted)
        found[split] = {name: text_column(place, name, where, name in optional).to_pylist() for name in wanted}
    return found


def _places(data: InstructionData) -> dict[str, tuple[Path, ...] | pa.Table]:
    """The files or the table of each split, train first."""
    found = dict(_files(data.path)) if data.path else _tables(data.hub, data.hub_config, data)
    if "train" not in found:
        raise InputError(f"dataset={data.name}: {data.hub} has no train split, only {', '.join(found)}")
    if data.test_path:
        return found | {"test": _test_files(data.test_path)["test"]}
    if data.test_hub:
        test = _tables(data.test_hub, data.test_hub_config, data)
        if "test" not in test:
            raise InputError(f"dataset={data.name}: {data.test_hub} has no test split, only {', '.join(test)}")
        return found | {"test": test["test"]}
    return found


def _files(path: str) -> dict[str, tuple[Path, ...]]:
    return files.split_files(path, suffixes=SUFFIXES)


def _test_files(path: str) -> dict[str, tuple[Path, ...]]:
    """A single file, or what a folder has as test."""
    found = files.split_files(path, {"train": files.SPLIT_NAMES["test"]}, SUFFIXES, "dataset.test_path")
    return {"test": found["train"]}


def _tables(hub: str | None, config: str | None, data: InstructionData) -> dict[str, pa.Table]:
    if not hub:
        raise InputError(
            f"dataset={data.name} needs dataset.path=FILE or FOLDER ({', '.join(SUFFIXES)}), or a hub name"
        )
    from lrexp.tasks.sources.hub import hub_tables

    there = hub_tables(hub, config, data.name)
    chosen = {
        split: next((name for name in names if name in there), None) for split, names in files.SPLIT_NAMES.items()
    }
    return {split: there[name] for split, name in chosen.items() if name}


def _hub_hash(hub: str | None, config: str | None, data: InstructionData) -> str:
    tables = _tables(hub, config, data)
    from lrexp.tasks.sources.hub import content_hash

    return content_hash(tables)
