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
from typing import TYPE_CHECKING, Any

from lrexp.spec.convert import nearest
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from lrexp.models.model_spec import OutputKind
    from lrexp.tasks.base import Task

BUILDERS: dict[str, tuple[str, OutputKind]] = {
    "classification": ("lrexp.tasks.labelled_build", "classification"),
    "regression": ("lrexp.tasks.labelled_build", "classification"),
    "causal_lm": ("lrexp.tasks.language_build", "causal_lm"),
    "image_classification": ("lrexp.tasks.image_build", "image_classification"),
    "causal_lm from c4": ("lrexp.tasks.streamed_build", "causal_lm"),
    "instruction": ("lrexp.tasks.instruction_build", "causal_lm"),
}
STREAMED = ("causal_lm from c4",)


def check(dataset: Mapping[str, Any]) -> Any:
    """The section's types and ranges, as its kind's frozen dataclass; reads nothing. Raises InputError."""
    return _builder(dataset).check(dataset)


def output_kind(dataset: Mapping[str, Any]) -> OutputKind:
    """What the task asks of a model. Raises InputError for an unknown kind of task."""
    return _entry(dataset)[1]


def fingerprint(dataset: Mapping[str, Any]) -> str:
    """Hash of the data's content, wherever it lies; needs no torch.

    Raises:
        InputError: the data cannot be found or read.
    """
    return _builder(dataset).fingerprint(dataset)


def is_streamed(dataset: Mapping[str, Any]) -> bool:
    """Whether the data are read only as far as a run trains on them."""
    return _key(dataset) in STREAMED


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
    return importlib.import_module(_entry(dataset)[0])


def _entry(dataset: Mapping[str, Any]) -> tuple[str, OutputKind]:
    kind, known = dataset.get("task", "classification"), [kind for kind in BUILDERS if kind not in STREAMED]
    if kind not in known:
        near = nearest(str(kind), known)
        raise InputError(f"dataset.task: {kind!r} is not one of {', '.join(known)}{': ' * bool(near)}{near}")
    return BUILDERS[_key(dataset)]


def _key(dataset: Mapping[str, Any]) -> str:
    """The entry among the builders: a kind of task, or a kind from a source that has its own."""
    kind = dataset.get("task", "classification")
    own = f"{kind} from {dataset.get('source')}"
    return own if own in BUILDERS else kind
