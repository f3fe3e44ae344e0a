"""Sequence classification and regression from the dataset section of a run: read, checked, encoded and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lrexp.spec.convert import from_mapping
from lrexp.tasks.labelled import ClassificationData
from lrexp.tasks.sources import embedded, glue, local
from lrexp.tasks.tokenizer import check_tokenizer

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
    """The task of a dataset section for one tokenizer; see `lrexp.tasks.build.build`."""
    from lrexp.tasks import classification, splits
    from lrexp.tasks.base import Split

    data = check(dataset)
    check_tokenizer(tokenizer, data, "pad_token")
    content = fingerprint(dataset)
    encodings = _encodings(data, tokenizer, content, cache, hold_out_selection)
    roles = splits.roles(list(encodings.read), hold_out_selection)
    parts = splits.divided(encodings.splits, encodings.read["train"], roles, data, seed)
    kind = classification.SequenceRegression if data.task == "regression" else classification.SequenceClassification
    task = kind(data, {name: Split(part, part.lengths) for name, part in parts.items()}, encodings.labels, tokenizer)
    task.reported, task.selection, task.fingerprint = roles.reported, roles.selection, content
    return task


def _encodings(
    data: ClassificationData, tokenizer: Any, content: str, cache: Path | None, hold_out_selection: bool
) -> Encodings:
    """Seeds do not decide the encoded rows, so that all seeds of a sweep share them."""
    from lrexp.tasks import encode, splits

    def make() -> Encodings:
        source = _SOURCES[data.source].read(data)
        held_out = len(splits.roles(list(source.splits), hold_out_selection).held_out)
        parts = {}
        for name, rows in source.splits.items():
            chosen = splits.pool(name, len(rows), data, held_out)
            parts[name] = encode.encode(rows, chosen, tokenizer, data.max_length, name)
        return encode.Encodings(parts, {name: len(rows) for name, rows in source.splits.items()}, source.labels)

    keys = {key: value for key, value in asdict(data).items() if key not in _NOT_ENCODED}
    is_limited = hold_out_selection and data.max_train_samples is not None  # else all of train is encoded anyway
    return encode.kept_or_made(cache, tokenizer, [content, is_limited, keys], make)
