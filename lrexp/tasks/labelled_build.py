"""Sequence classification and regression from the dataset section of a run: read, checked, encoded and split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError
from lrexp.tasks.labelled import ClassificationData
from lrexp.tasks.sources import embedded, glue, local

if TYPE_CHECKING:
    from lrexp.tasks.base import Task
    from lrexp.tasks.encode import Encodings

_SOURCES: dict[str, ModuleType] = {"local": local, "glue": glue, "docmatch": embedded}
_NOT_ENCODED = ("model", "path", "metrics", "primary_metric")  # keys that do not change what is encoded


def check(dataset: Mapping[str, Any]) -> ClassificationData:
    """The section's types and ranges; reads nothing. Raises InputError."""
    return from_mapping(ClassificationData, dataset, "dataset")


def fingerprint(dataset: Mapping[str, Any]) -> str:
    """Hash of the data's content, wherever it lies; needs no torch.

    Raises:
        InputError: the data cannot be found or read.
    """
    data = check(dataset)
    return _SOURCES[data.source].fingerprint(data)


def build(
    dataset: Mapping[str, Any], tokenizer: Any, seed: int, cache: Path | None = None, hold_out_selection: bool = False
) -> Task:
    """The task of a dataset section for one tokenizer.

    `hold_out_selection` asks for a split "selection" out of train where the data has none that may be selected on.
    `cache` is the folder of encoded data (None: no cache). The same section, tokenizer and seed give the same splits.

    Raises:
        InputError: anything wrong with the data: every row is read before this returns.
    """
    from lrexp.tasks import classification, splits
    from lrexp.tasks.base import Split

    data = check(dataset)
    _check_tokenizer(tokenizer, data)
    content = fingerprint(dataset)
    encodings = _encodings(data, tokenizer, content, cache, hold_out_selection)
    roles = splits.roles(list(encodings.read), hold_out_selection)
    parts = dict(encodings.splits)
    if roles.held_out:
        pooled = parts.pop("train")
        size = splits.held_out_size(encodings.read["train"], data)
        held = splits.hold_out(len(pooled), size, roles.held_out, seed)
        parts |= {name: pooled.take(positions) for name, positions in held.items()}
    kind = classification.SequenceRegression if data.task == "regression" else classification.SequenceClassification
    task = kind(data, {name: Split(part, part.lengths) for name, part in parts.items()}, encodings.labels, tokenizer)
    task.reported, task.selection, task.fingerprint = roles.reported, roles.selection, content
    return task


def _check_tokenizer(tokenizer: Any, data: ClassificationData) -> None:
    if data.max_length > tokenizer.model_max_length:
        raise InputError(
            f"dataset.max_length is {data.max_length}, but the model takes at most {tokenizer.model_max_length} tokens"
        )
    if tokenizer.pad_token_id is None:
        raise InputError("the model's tokenizer has no padding token, which batches of texts need")


def _encodings(
    data: ClassificationData, tokenizer: Any, content: str, cache: Path | None, hold_out_selection: bool
) -> Encodings:
    from lrexp.tasks import encode, splits

    place = None if cache is None else cache / f"{_key(data, tokenizer, content, hold_out_selection)}.encoded"
    kept = encode.load(place) if place else None
    if kept is not None:
        return kept
    source = _SOURCES[data.source].read(data)
    held_out = len(splits.roles(list(source.splits), hold_out_selection).held_out)
    parts = {}
    for name, rows in source.splits.items():
        chosen = splits.pool(name, len(rows), data, held_out)
        parts[name] = encode.encode(rows, chosen, tokenizer, data.max_length, name)
    read = {name: len(rows) for name, rows in source.splits.items()}
    made = encode.Encodings(parts, read, source.labels)
    if place:
        encode.save(made, place)
    return made


def _key(data: ClassificationData, tokenizer: Any, content: str, hold_out_selection: bool) -> str:
    """Hash of all that decides the encoded rows: seeds do not, so that all seeds of a sweep share them."""
    from lrexp.tasks import encode

    about = {key: value for key, value in asdict(data).items() if key not in _NOT_ENCODED}
    hold_out_selection = (
        hold_out_selection and data.max_train_samples is not None
    )  # else all of train is encoded anyway
    parts = [encode.FORMAT, content, encode.tokenizer_hash(tokenizer), hold_out_selection, about]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
