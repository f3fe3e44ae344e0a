"""What the engine knows of a task: splits of encoded items, collation, a summed loss, predictions and their metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from lrexp.models.model_spec import Outputs
from lrexp.tasks.items import Item

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Split:
    """Encoded items of one split, and the length of each in tokens (for bucketing; 1 where items have no length).

    `tokens` is the one length that all items have by design (packed text), None where there is none. `block` is set for
    a stream: items come in blocks of so many, one block after the other, and `lengths` are what they are at most.
    """

    items: Sequence[Item]
    lengths: np.ndarray  # (items,) int64
    tokens: int | None = None
    block: int | None = None

    def __len__(self) -> int:
        return len(self.items)


class Task(ABC):
    """One data set read and encoded for one model.

    `splits` holds "train" and at least one of "validation" and "test"; the final evaluation is on `reported`. The
    selection rule `best` looks at `selection` alone, a split that is never the reported one (held out of train where
    the data has no other).
    """

    kind: ClassVar[str]  # "classification", "regression", ...
    splits: dict[str, Split]
    reported: str
    selection: str | None
    primary_metric: str
    metric_names: tuple[str, ...]
    fingerprint: str
    outputs: Outputs  # what it asks of a model

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """A padded batch on the CPU from encoded items."""

    @abstractmethod
    def targets(self, batch: Batch) -> int:
        """How many targets the loss of this batch sums over (sequences, or predicted tokens)."""

    def tokens(self, batch: Batch) -> int:
        """Tokens in the batch that are not padding, for the throughput."""
        mask = batch.get("attention_mask")
        return int(mask.sum()) if mask is not None else self.targets(batch)

    def demands(self) -> dict[str, int]:
        """Lengths in tokens that a model has to take, each with what asks for it."""
        length = getattr(getattr(self, "data", None), "max_length", None)
        return {} if length is None else {f"dataset.max_length is {length}": length}

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets, float32 or better."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Columns with one entry an item; of labelled data "label" and "prediction" are among them.

        They are what `metrics` needs and predictions.parquet keeps (docs/result.md). For them a task may let the
        model write text.
        """

    @abstractmethod
    def metrics(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Metrics under their exact names, each with `<name>_standard_error`; and the mean loss as "loss"."""
