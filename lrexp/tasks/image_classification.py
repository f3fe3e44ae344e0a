"""Image classification: a model that maps pixels to logits, `model(pixel_values=...).logits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.tasks.base import Batch, Split
from lrexp.tasks.images import ImageData
from lrexp.tasks.items import Item, Items
from lrexp.tasks.labelled_task import Classification
from lrexp.tasks.sources.pixels import Pictures
from lrexp.tasks.splits import shuffled


@dataclass(frozen=True, eq=False)
class Images(Items):
    """Images of one split as they are stored. An item is {"pixels", "label", "row"}, `row` its number as read."""

    pixels: np.ndarray  # (images, channels, height, width) uint8
    labels: np.ndarray  # (images,) int64
    index: np.ndarray  # (items,) int64: which of the images are items

    def __len__(self) -> int:
        return len(self.index)

    def item(self, i: int) -> Item:
        """Item number `i`, as the class says it is."""
        at = self.index[i]
        return {"pixels": self.pixels[at], "label": self.labels[at], "row": at}

    def take(self, positions: np.ndarray) -> Images:
        """The items at these positions, sharing the arrays."""
        return replace(self, index=self.index[positions])


class ImageClassification(Classification):
    """Batches hold `pixel_values` (items, channels, height, width) float32, `labels` and `row`, (items,) int64.

    Pixels are scaled to [0, 1], resized (bilinear, antialiased) where the section says so, their places then permuted
    if it does, the same way in every image, and last the mean taken off and the rest divided by std, by channel.
    """

    kind: ClassVar[str] = "image_classification"

    def __init__(self, data: ImageData, parts: Mapping[str, Images], found: Pictures) -> None:
        channels, height, width = found.shape
        if data.image_size is not None:
            height = width = data.image_size
        splits = {name: Split(part, np.ones(len(part), np.int64)) for name, part in parts.items()}
        super().__init__(data, splits, found.labels, (channels, height, width))
        self.data = data
        self._largest = found.largest
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
        self._places = torch.from_numpy(shuffled(height * width, "pixels")) if data.shuffle_pixels else None

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Pixels as the model takes them."""
        pixels = torch.from_numpy(np.stack([item["pixels"] for item in items])).float() / self._largest
        if self.data.image_size is not None:
            size = (self.data.image_size, self.data.image_size)
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        if self._places is not None:
            pixels = pixels.flatten(2)[:, :, self._places].view(pixels.shape)
        return {
            "pixel_values": (pixels - self._mean) / self._std,
            "labels": torch.from_numpy(np.array([item["label"] for item in items])),
            "row": torch.from_numpy(np.array([item["row"] for item in items])),
        }

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The pixels go in in the precision of the model's weights."""
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        return super()._logits(model, {**batch, "pixel_values": batch["pixel_values"].to(dtype)})
