"""Image classification from the dataset section of a run: read, checked and split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError
from lrexp.tasks.images import ImageData
from lrexp.tasks.sources import digits, images

if TYPE_CHECKING:
    from lrexp.tasks.base import Task
    from lrexp.tasks.sources.pixels import Pictures

_SOURCES: dict[str, ModuleType] = {"digits": digits, "images": images}


def check(dataset: Mapping[str, Any]) -> ImageData:
    """The section's types and ranges; reads nothing. Raises InputError."""
    return from_mapping(ImageData, dataset, "dataset")


def fingerprint(dataset: Mapping[str, Any]) -> str:
    """Hash of the data's content, wherever it lies. Raises InputError where they cannot be found or read."""
    data = check(dataset)
    return _SOURCES[data.source].fingerprint(data)


def build(
    dataset: Mapping[str, Any], tokenizer: Any, seed: int, cache: Path | None = None, hold_out_selection: bool = False
) -> Task:
    """The task of a dataset section; see `lrexp.tasks.build.build`. Nothing is encoded, so neither cache is used."""
    from lrexp.tasks import splits
    from lrexp.tasks.image_classification import ImageClassification, Images

    data = check(dataset)
    content = fingerprint(dataset)
    found: Pictures = _SOURCES[data.source].read(data)
    _check_channels(found, data)
    roles = splits.roles(list(found.splits), hold_out_selection)
    held_out = len(roles.held_out)
    pooled = {
        name: Images(rows.pixels, _labels(rows.labels, name, data), splits.pool(name, len(rows.labels), data, held_out))
        for name, rows in found.splits.items()
    }
    parts = splits.divided(pooled, len(found.splits["train"].labels), roles, data, seed)
    task = ImageClassification(data, parts, found)
    task.reported, task.selection, task.fingerprint = roles.reported, roles.selection, content
    return task


def _check_channels(found: Pictures, data: ImageData) -> None:
    """Raises InputError where mean and std are of another number of channels."""
    channels = found.shape[0]
    if len(data.mean) not in (1, channels):
        raise InputError(
            f"dataset.mean has {len(data.mean)} numbers, but the images have {channels} channel{'s' * (channels > 1)}: "
            "give one for each, or one for all; the same for dataset.std"
        )


def _labels(labels: Any, split: str, data: ImageData) -> Any:
    """The labels of a split, dealt anew among its images where the section says so: the same for every seed."""
    from lrexp.tasks.splits import shuffled

    return labels[shuffled(len(labels), f"labels {split}")] if data.shuffle_labels else labels
