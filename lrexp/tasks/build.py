"""A task from the dataset section of a run: `dataset.task` says which kind of data it is, each kind has its builder.

A builder is a module with `check(section)`, `fingerprint(section)` and `build(section, tokenizer, seed, cache,
hold_out_selection)`; the first two need no torch. That of streamed data, which are read as far as a run trains on them,
takes `train_items` too.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from lrexp.spec.convert import nearest
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from lrexp.models.model_spec import OutputKind
    from lrexp.tasks.base import Task


class Builder(NamedTuple):
    """Where the builder of a kind of data is, and what the task asks of a model."""

    module: str
    output: OutputKind
    is_streamed: bool = False  # read only as far as a run trains on them


BUILDERS: dict[tuple[str, str | None], Builder] = {  # by task, and by source where a source has its own
    ("classification", None): Builder("lrexp.tasks.labelled_build", "classification"),
    ("regression", None): Builder("lrexp.tasks.labelled_build", "classification"),
    ("causal_lm", None): Builder("lrexp.tasks.language_build", "causal_lm"),
    ("causal_lm", "c4"): Builder("lrexp.tasks.streamed_build", "causal_lm", is_streamed=True),
    ("instruction", None): Builder("lrexp.tasks.instruction_build", "causal_lm"),
    ("image_classification", None): Builder("lrexp.tasks.image_build", "image_classification"),
}


def check(dataset: Mapping[str, Any]) -> Any:
    """The section's types and ranges, as its kind's frozen dataclass; reads nothing. Raises InputError."""
    return _builder(dataset).check(dataset)


def output_kind(dataset: Mapping[str, Any]) -> OutputKind:
    """What the task asks of a model. Raises InputError for an unknown kind of task."""
    return _entry(dataset).output


def fingerprint(dataset: Mapping[str, Any]) -> str:
    """Hash of the data's content, wherever it lies; needs no torch.

    Raises:
        InputError: the data cannot be found or read.
    """
    return _builder(dataset).fingerprint(dataset)


def is_streamed(dataset: Mapping[str, Any]) -> bool:
    """Whether the data are read only as far as a run trains on them."""
    return _entry(dataset).is_streamed


def build(
    dataset: Mapping[str, Any],
    tokenizer: Any,
    seed: int,
    cache: Path | None = None,
    hold_out_selection: bool = False,
    train_items: int | None = None,
) -> Task:
    """The task of a dataset section for one tokenizer (None for data that are no text).

    `hold_out_selection` asks for a split "selection" out of train where the data has none that may be selected on.
    `cache` is the folder of encoded data (None: no cache). `train_items` says how many items of streamed data the run
    trains on (None: it does not say), and means nothing for others. The same section, tokenizer and seed give the same
    splits.

    Raises:
        InputError: anything wrong with the data: every row is read before this returns.
    """
    streamed = {"train_items": train_items} if is_streamed(dataset) else {}
    return _builder(dataset).build(dataset, tokenizer, seed, cache, hold_out_selection, **streamed)


def _builder(dataset: Mapping[str, Any]) -> ModuleType:
    return importlib.import_module(_entry(dataset).module)


def _entry(dataset: Mapping[str, Any]) -> Builder:
    kind, known = dataset.get("task", "classification"), list(dict.fromkeys(kind for kind, _ in BUILDERS))
    if kind not in known:
        near = nearest(str(kind), known)
        raise InputError(f"dataset.task: {kind!r} is not one of {', '.join(known)}{': ' * bool(near)}{near}")
    source = dataset.get("source")
    own = BUILDERS.get((kind, source)) if isinstance(source, str) else None
    return own or BUILDERS[kind, None]
