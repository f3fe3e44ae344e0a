"""A task from the dataset section alone, with one batch of the largest that its data can make: nothing is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lrexp.spec.errors import InputError
from lrexp.tasks import build
from lrexp.tasks.base import Task
from lrexp.tasks.images import ImageData
from lrexp.tasks.items import Item

CLASSES = 2  # where the section does not name them


class Padding:
    """Of a tokenizer what a task asks for."""

    eos_token_id = pad_token_id = pad_token_type_id = 0
    padding_side = "right"


def blank(dataset: Mapping[str, Any], image_shape: tuple[int, int, int] | None = None) -> Task:
    """A task without splits. `image_shape` is (channels, height, width) of images that the section knows no size of.

    Raises InputError for a wrong section, and for images of unknown size.
    """
    from lrexp.tasks.causal_lm import CausalLM
    from lrexp.tasks.classification import SequenceClassification, SequenceRegression
    from lrexp.tasks.instruction import InstructionData
    from lrexp.tasks.instruction_task import Instruction
    from lrexp.tasks.labelled import ClassificationData

    data = build.check(dataset)
    if isinstance(data, ImageData):
        return _of_images(data, image_shape)
    if isinstance(data, InstructionData):
        return Instruction(data, {}, Padding, ())
    if isinstance(data, ClassificationData):
        if data.task == "regression":
            return SequenceRegression(data, {}, None, Padding)
        return SequenceClassification(data, {}, _labels(data.labels), Padding)
    return CausalLM(data, {}, Padding)


def batch(task: Task, size: int) -> dict[str, Tensor]:
    """`size` items as long as they can be, on the CPU; the last is shorter by a token where lengths may differ."""
    data = getattr(task, "data")  # noqa: B009 (every kind of task has the section that it comes from)
    if isinstance(data, ImageData):
        assert task.outputs.image_shape is not None
        pixels = np.zeros(task.outputs.image_shape, np.uint8)
        return task.collate([{"pixels": pixels, "label": np.int64(0), "row": np.int64(i)} for i in range(size)])
    is_packed = getattr(data, "packing", False)
    lengths = [data.max_length - (i == size - 1 and not is_packed) for i in range(size)]
    return task.collate([_text(i, length, task.kind) for i, length in enumerate(lengths)])


def _text(row: int, length: int, kind: str) -> Item:
    label = np.float64(0) if kind == "regression" else np.int64(0)
    tokens = np.zeros(length, np.int64)
    ones = np.ones(length, np.int64)
    return {"input_ids": tokens, "bytes": ones, "is_target": ones, "label": label, "row": np.int64(row)}


def _of_images(data: ImageData, image_shape: tuple[int, int, int] | None) -> Task:
    from lrexp.tasks.image_classification import ImageClassification
    from lrexp.tasks.sources import digits
    from lrexp.tasks.sources.pixels import Pictures, Rows

    labels = _labels(data.labels)
    if data.source == "digits":
        image_shape, labels = (1, digits.SIDE, digits.SIDE), digits.NAMES
    elif data.image_size is not None:
        channels = image_shape[0] if image_shape is not None else len(data.mean)
        image_shape = (channels, data.image_size, data.image_size)
    if image_shape is None:
        raise InputError(
            f"dataset={data.name}: images are not read for a plan, and their size is not in the spec: set "
            "dataset.image_size to their side in pixels"
        )
    pixels = np.zeros((1, *image_shape), np.uint8)
    return ImageClassification(data, {}, Pictures({"train": Rows(pixels, np.zeros(1, np.int64))}, labels))


def _labels(named: tuple[str, ...] | None) -> tuple[str, ...]:
    return named or tuple(map(str, range(CLASSES)))
