"""Texts to tokens, once: encoded splits in flat arrays, kept in a cache under a hash of all that decides them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrexp.spec.errors import InputError
from lrexp.tasks.items import Item, Items
from lrexp.tasks.sources.table import Rows

FORMAT = 1  # raised whenever the same rows are encoded or stored in another way
_CHUNK = 2048  # rows given to the tokenizer at once


@dataclass(frozen=True, eq=False)
class Encoded(Items):
    """Items of one split: token arrays one after the other, item i between offsets[index[i]] and the next offset.

    An item is {"input_ids", "token_type_ids" where the tokenizer gives them, "label", "row"}; `row` counts from 0 in
    the split as read.
    """

    tokens: dict[str, np.ndarray]  # name -> (all tokens,) int32
    offsets: np.ndarray  # (encoded rows + 1,) int64
    labels: np.ndarray  # (encoded rows,) int64 or float64
    rows: np.ndarray  # (encoded rows,) int64
    index: np.ndarray  # (items,) int64: which of the encoded rows are items

    def __len__(self) -> int:
        return len(self.index)

    def item(self, i: int) -> Item:
        """Item number `i`, as the class says it is."""
        at = self.index[i]
        start, end = self.offsets[at], self.offsets[at + 1]
        item: dict[str, Any] = {name: flat[start:end] for name, flat in self.tokens.items()}
        return {**item, "label": self.labels[at], "row": self.rows[at]}

    def take(self, positions: np.ndarray) -> Encoded:
        """The items at these positions, sharing the arrays."""
        return replace(self, index=self.index[positions])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, (items,) int64."""
        return np.diff(self.offsets)[self.index]

    @property
    def largest_token(self) -> int:
        """The largest token that any of the encoded rows has."""
        return int(np.max(self.tokens["input_ids"], initial=-1))


@dataclass(frozen=True)
class Encodings:
    """The encoded splits of a source, how many rows each split had before a limit, and the names of the classes."""

    splits: dict[str, Encoded]
    read: dict[str, int]
    labels: tuple[str, ...] | None


def encode(source: Rows, chosen: np.ndarray, tokenizer: Any, max_length: int, where: str) -> Encoded:
    """The chosen rows (ascending) of a split as the tokenizer gives them, pairs truncated longest first.

    Raises:
        InputError: a text of which the tokenizer makes nothing.
    """
    flat: dict[str, list[np.ndarray]] = {}
    lengths: list[int] = []
    for start in range(0, len(chosen), _CHUNK):
        rows = pa.array(chosen[start : start + _CHUNK])
        texts = [column.take(rows).to_pylist() for column in source.texts]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False, verbose=False)
        for name in ("input_ids", "token_type_ids"):
            if name in encoded:
                flat.setdefault(name, []).append(np.concatenate([np.asarray(ids, np.int32) for ids in encoded[name]]))
        lengths += map(len, encoded["input_ids"])
    if 0 in lengths:
        raise InputError(f"{where}: row {chosen[lengths.index(0)] + 1} has no tokens: its text is empty")
    tokens = {name: np.concatenate(parts) for name, parts in flat.items()}
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Encoded(tokens, offsets, source.labels[chosen], chosen.astype(np.int64), np.arange(len(chosen)))


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of what the tokenizer does to a text: vocabulary and rules, not its folder nor its last call's padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = (
        json.loads(backend.to_str()) if backend is not None else {"vocabulary": sorted(tokenizer.get_vocab().items())}
    )
    rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    sides = [tokenizer.truncation_side, tokenizer.model_input_names, type(tokenizer).__name__]
    return hashlib.sha256(json.dumps([rules, special, sides], sort_keys=True).encode()).hexdigest()


def place(cache: Path, tokenizer: Any, about: Sequence[Any]) -> Path:
    """The file in the cache for encodings that the tokenizer and `about` decide."""
    text = json.dumps([FORMAT, tokenizer_hash(tokenizer), *about], sort_keys=True)
    return cache / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.encoded"


def kept_or_made(cache: Path | None, tokenizer: Any, about: Sequence[Any], make: Callable[[], Encodings]) -> Encodings:
    """The encodings in the cache under a hash of all that decides them; else those that `make` gives, which are kept.

    `about` is what decides them besides the tokenizer. Without a cache they are made.
    """
    if cache is None:
        return make()
    file = place(cache, tokenizer, about)
    found = load(file)
    if found is None:
        found = make()
        save(found, file)
    return found


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The items of all parts one after the other, as one."""
    tokens = {name: np.concatenate([part.tokens[name] for part in parts]) for name in parts[0].tokens}
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    starts = np.cumsum([0, *(len(part.rows) for part in parts)])
    index = np.concatenate([part.index + start for part, start in zip(parts, starts, strict=False)])
    labels, rows = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "rows"))
    return Encoded(tokens, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), labels, rows, index)


def save(encodings: Encodings, path: Path) -> None:
    """Writes the encodings aside and renames them. A folder that cannot be written means no cache, not an error."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(_table(encodings), sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        aside.write_bytes(content + hashlib.sha256(content).digest())
        os.replace(aside, path)
    except OSError:
        _remove(aside)


def load(path: Path) -> Encodings | None:
    """The encodings kept at `path` (Parquet and its sha256); None where there are none or they are damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        return None
    return _encodings(pq.read_table(pa.BufferReader(content[:-32])))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _table(encodings: Encodings) -> pa.Table:
    parts = list(encodings.splits.values())
    columns: dict[str, pa.Array] = {}
    for name in parts[0].tokens:
        arrays = [pa.LargeListArray.from_arrays(part.offsets, part.tokens[name]) for part in parts]
        columns[name] = pa.concat_arrays(arrays)
    columns["label"] = pa.array(np.concatenate([part.labels for part in parts]))
    columns["row"] = pa.array(np.concatenate([part.rows for part in parts]))
    about = {
        "sizes": {split: len(part.rows) for split, part in encodings.splits.items()},
        "read": encodings.read,
        "labels": encodings.labels,
    }
    return pa.table(columns).replace_schema_metadata({"lrexp": json.dumps(about)})


def _encodings(table: pa.Table) -> Encodings:
    about = json.loads((table.schema.metadata or {})[b"lrexp"])
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    splits, start = {}, 0
    for split, size in about["sizes"].items():
        part = {name: column.slice(start, size) for name, column in columns.items()}
        splits[split] = _split(part, size)
        start += size
    return Encodings(splits, about["read"], None if about["labels"] is None else tuple(about["labels"]))


def _split(columns: dict[str, Any], size: int) -> Encoded:
    labels, rows = columns.pop("label").to_numpy(), columns.pop("row").to_numpy()
    tokens, offsets = {}, np.zeros(size + 1, np.int64)
    for name, lists in columns.items():
        offsets = lists.offsets.to_numpy()
        tokens[name] = lists.values.to_numpy()[offsets[0] : offsets[-1]]
    return Encoded(tokens, offsets - offsets[0], labels, rows, np.arange(size))
