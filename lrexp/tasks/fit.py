"""Whether a model takes what a task feeds it: its tokens, and sequences of that length."""

from __future__ import annotations

from typing import Any

from lrexp.spec.errors import InputError
from lrexp.tasks.base import Split, Task


def refuse_unfit(task: Task, config: Any, name: str) -> None:
    """Raises InputError for a token beyond the vocabulary of a model's config, or a length beyond its positions.

    `config` is transformers' own; `name` is the choice that messages name.
    """
    largest = max(map(_largest_token, task.splits.values()), default=-1)
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is not None and largest >= vocabulary:
        raise InputError(
            f"model={name}: its vocab_size is {vocabulary}, but the tokenizer gave token {largest}: "
            f"the two do not belong together, or vocab_size has to be at least {largest + 1}"
        )
    positions = _positions(config)
    for said, length in task.demands().items():
        if positions is not None and length > positions:
            raise InputError(
                f"{said}, but model={name} takes at most {positions} tokens (max_position_embeddings of its config)"
            )


def _positions(config: Any) -> int | None:
    """The longest sequence that a config speaks of (GPT-2's n_positions goes by the same name); None for no limit."""
    if getattr(config, "position_biased_input", True) is False:  # DeBERTa's positions are relative: it takes any length
        return None
    return getattr(config, "max_position_embeddings", None)


def _largest_token(split: Split) -> int:
    return getattr(split.items, "largest_token", -1)  # of items that hold tokens
