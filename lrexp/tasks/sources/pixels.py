"""Images on their way from a file to the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrexp.spec.errors import InputError
from lrexp.tasks.images import ImageData
from lrexp.tasks.sources.labels import labelled
from lrexp.tasks.sources.table import Table


@dataclass(frozen=True)
class Images:
    """What one file holds, labels as they stand there; `where` names the file in messages."""

    where: str
    pixels: np.ndarray  # (images, channels, height, width) uint8
    labels: np.ndarray  # (images,) int64, float64 or object (text)


@dataclass(frozen=True)
class Rows:
    """One split."""

    pixels: np.ndarray  # (images, channels, height, width) uint8
    labels: np.ndarray  # (images,) int64


@dataclass(frozen=True)
class Pictures:
    """Everything read from a source of images; `largest` is the value of a pixel that is wholly lit."""

    splits: dict[str, Rows]
    labels: tuple[str, ...]
    largest: float = 255.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.splits["train"].pixels.shape[1:]
        return channels, height, width


def pictures(parts: Mapping[str, Sequence[Images]], data: ImageData) -> Pictures:
    """The splits of a source from the images of their files, "train" among them.

    Raises:
        InputError: images of another shape than those of train; whatever is wrong with a label.
    """
    first = parts["train"][0]
    for part in (part for of_split in parts.values() for part in of_split):
        if part.pixels.shape[1:] != first.pixels.shape[1:]:
            raise InputError(
                f"{part.where}: its images are {shown(part.pixels.shape[1:])}, those of {first.where} "
                f"{shown(first.pixels.shape[1:])}: all have to be alike"
            )
    found = labelled({name: [Table(p.where, (), p.labels) for p in of_split] for name, of_split in parts.items()}, data)
    assert found.labels is not None
    splits = {
        name: Rows(np.concatenate([part.pixels for part in of_split]), found.splits[name].labels)
        for name, of_split in parts.items()
    }
    return Pictures(splits, found.labels)


def shown(shape: tuple[int, ...]) -> str:
    """The shape of an image in a person's words."""
    channels, height, width = shape
    return f"{height} x {width} with {channels} channel{'s' * (channels > 1)}"
