"""Causal language modelling from the dataset section of a run: documents read, encoded, packed and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lrexp.spec.convert import from_mapping
from lrexp.tasks.language import LanguageData
from lrexp.tasks.sources import stdlib_text, text
from lrexp.tasks.tokenizer import check_tokenizer

if TYPE_CHECKING:
    from lrexp.tasks.base import Task
    from lrexp.tasks.encode import Encodings

_SOURCES: dict[str, ModuleType] = {"text": text, "stdlib": stdlib_text}
_FORMAT = 2  # raised whenever the same documents are encoded in another way
_NOT_ENCODED = ("model", "path", "primary_metric", "max_train_samples", "max_eval_samples", "validation_fraction")


def check(dataset: Mapping[str, Any]) -> LanguageData:
    """The section's types and ranges; reads nothing. Raises InputError."""
    return from_mapping(LanguageData, dataset, "dataset")


def fingerprint(dataset: Mapping[str, Any]) -> str:
    """Hash of the data's content, wherever it lies. Raises InputError where they cannot be found or read."""
    data = check(dataset)
    return _SOURCES[data.source].fingerprint(data)


def build(
    dataset: Mapping[str, Any], tokenizer: Any, seed: int, cache: Path | None = None, hold_out_selection: bool = False
) -> Task:
    """The task of a dataset section for one tokenizer; see `lrexp.tasks.build.build`."""
    from lrexp.tasks import splits
    from lrexp.tasks.base import Split
    from lrexp.tasks.causal_lm import CausalLM

    data = check(dataset)
    check_tokenizer(tokenizer, data, "eos_token")
    content = fingerprint(dataset)
    encodings = _encodings(data, tokenizer, content, cache)
    roles = splits.roles(list(encodings.splits), hold_out_selection)
    held_out = len(roles.held_out)
    pooled = {name: part.take(splits.pool(name, len(part), data, held_out)) for name, part in encodings.splits.items()}
    parts = splits.divided(pooled, len(encodings.splits["train"]), roles, data, seed, in_order=data.packing)
    length = data.max_length if data.packing else None
    task = CausalLM(data, {name: Split(part, part.lengths, length) for name, part in parts.items()}, tokenizer)
    task.reported, task.selection, task.fingerprint = roles.reported, roles.selection, content
    return task


def _encodings(data: LanguageData, tokenizer: Any, content: str, cache: Path | None) -> Encodings:
    """Neither limits nor seeds decide the encoded sequences: all runs share them."""
    from lrexp.tasks import encode, language_encode

    def make() -> Encodings:
        documents = _SOURCES[data.source].read(data)
        parts = {name: language_encode.encode(texts, tokenizer, data, name) for name, texts in documents.items()}
        return encode.Encodings(parts, {name: len(part) for name, part in parts.items()}, None)

    keys = {key: value for key, value in asdict(data).items() if key not in _NOT_ENCODED}
    return encode.kept_or_made(cache, tokenizer, ["language", _FORMAT, content, keys], make)
