"""Whether a model takes what a task feeds it: its tokens and sequences of that length, or images of that shape."""

from __future__ import annotations

from typing import Any

from lrexp.spec.errors import InputError
from lrexp.tasks.base import Split, Task


def refuse_unfit(task: Task, config: Any, name: str) -> None:
    """Raises InputError for a token beyond the vocabulary of a model's config, a length beyond its positions, or images
    of another shape than the config's.

    `config` is transformers' own; `name` is the choice that messages name.
    """
    if task.outputs.image_shape is not None:
        _refuse_other_images(task.outputs.image_shape, config, name)
    largest = max(map(_largest_token, task.splits.values()), default=-1)
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is not None and largest >= vocabulary:
        raise InputError(
            f"model={name}: its vocab_size is {vocabulary}, but the tokenizer gave token {largest}: "
            f"the two do not belong together, or vocab_size has to be at least {largest + 1}"
        )
    most = positions(config)
    for said, length in task.demands().items():
        if most is not None and length > most:
            raise InputError(
                f"{said}, but model={name} takes at most {most} tokens (max_position_embeddings of its config)"
            )


def _refuse_other_images(shape: tuple[int, int, int], config: Any, name: str) -> None:
    channels, *sides = shape
    taken, size, patch = (getattr(config, key, None) for key in ("num_channels", "image_size", "patch_size"))
    if taken is not None and taken != channels:
        raise InputError(f"model={name} takes images with {taken} channels, these data have {channels}")
    if size is not None and _pair(size) != sides:
        height, width = _pair(size)
        resized = f": dataset.image_size={height} resizes them" if height == width else ""
        raise InputError(
            f"model={name} takes images of {height} x {width} pixels, these data have {sides[0]} x {sides[1]}{resized}"
        )
    if patch is not None and any(side % length for side, length in zip(sides, _pair(patch), strict=True)):
        raise InputError(
            f"model={name}: images of {sides[0]} x {sides[1]} pixels are not cut into whole patches of "
            f"{' x '.join(map(str, _pair(patch)))} (patch_size of its config)"
        )


def _pair(size: Any) -> list[int]:
    """Height and width of what a config gives as one number or as two."""
    return [size, size] if isinstance(size, int) else list(size)


def positions(config: Any) -> int | None:
    """The longest sequence that a config speaks of (GPT-2's n_positions goes by the same name); None for no limit."""
    if getattr(config, "position_biased_input", True) is False:  # DeBERTa's positions are relative: it takes any length
        return None
    return getattr(config, "max_position_embeddings", None)


def _largest_token(split: Split) -> int:
    return getattr(split.items, "largest_token", -1)  # of items that hold tokens
