"""Sequence classification and regression: a model that maps one or two texts to logits, `model(**inputs).logits`."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.models.model_spec import Outputs
from lrexp.spec.errors import RunError
from lrexp.tasks.base import Batch, Item, Split, Task
from lrexp.tasks.labelled import ClassificationData
from lrexp.tasks.metrics import classification_metrics, regression_metrics

_MULTIPLE = 8  # widths of batches: fewer shapes, and what tensor cores like
_NOT_INPUTS = ("labels", "row")


class SequenceTask(Task):
    """What classification and regression of texts share: items, collation and the way to the logits.

    `labels` are the names of the classes, None for regression. A batch holds what the tokenizer gives,
    `attention_mask`, `labels` (int64 or float64) and `row`, the item's number in its split as read.
    """

    def __init__(
        self, data: ClassificationData, splits: dict[str, Split], labels: tuple[str, ...] | None, tokenizer: Any
    ) -> None:
        self.data = data
        self.splits = splits
        self.labels = labels
        self.primary_metric = data.primary
        self.metric_names = (*data.metric_names, "loss")
        problem = "regression" if labels is None else "single_label_classification"
        self.outputs = Outputs("classification", 1 if labels is None else len(labels), problem)
        self._pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self._pads_left = tokenizer.padding_side == "left"

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Tokens (items, width) int64, the width a multiple of 8 but at most max_length."""
        lengths = np.array([len(item["input_ids"]) for item in items])
        width = min(-(-int(lengths.max()) // _MULTIPLE) * _MULTIPLE, self.data.max_length)
        column, ends = np.arange(width), lengths[:, None]  # (width,), (items, 1)
        is_token = column >= width - ends if self._pads_left else column < ends  # (items, width)
        batch: dict[str, Tensor] = {}
        for name, pad in self._pads.items():
            if name in items[0]:
                padded = np.full((len(items), width), pad, np.int64)
                padded[is_token] = np.concatenate([item[name] for item in items])
                batch[name] = torch.from_numpy(padded)
        batch["attention_mask"] = torch.from_numpy(is_token.astype(np.int64))
        batch["labels"] = torch.from_numpy(np.array([item["label"] for item in items]))
        batch["row"] = torch.from_numpy(np.array([item["row"] for item in items]))
        return batch

    def targets(self, batch: Batch) -> int:
        """The items of the batch."""
        return len(batch["labels"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss summed over the items, in float32 or, from a float64 model, float64."""
        return self._losses(self._logits(model, batch), batch["labels"]).sum()

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """`row`, `label`, `prediction` and `loss` of each item."""
        logits = self._logits(model, batch)
        columns = {
            "row": batch["row"],
            "label": batch["labels"],
            "prediction": self._predictions(logits),
            "loss": self._losses(logits, batch["labels"]),
        }
        return {name: column.cpu().numpy() for name, column in columns.items()}

    def metrics(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The dataset section's metrics with their standard errors, and the mean loss.

        Raises:
            RunError: a loss that is not finite.
        """
        losses = predictions["loss"].astype(np.float64)
        if not np.isfinite(losses).all():
            raise RunError(f"the loss of {(~np.isfinite(losses)).sum()} of {len(losses)} evaluated items is not finite")
        return {**self._metrics(predictions["label"], predictions["prediction"]), "loss": float(losses.mean())}

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(**{name: value for name, value in batch.items() if name not in _NOT_INPUTS}).logits
        assert logits.shape == (len(batch["labels"]), self.outputs.num_labels), f"logits {tuple(logits.shape)}"
        return logits if logits.dtype == torch.float64 else logits.float()  # (items, num_labels)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def _predictions(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def _metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        raise NotImplementedError


class SequenceClassification(SequenceTask):
    """Cross entropy over the classes."""

    kind: ClassVar[str] = "classification"

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")  # (items,)

    def _predictions(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def _metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        return classification_metrics(self.data.metric_names, labels, predictions, self.outputs.num_labels)


class SequenceRegression(SequenceTask):
    """Squared error of the one logit."""

    kind: ClassVar[str] = "regression"

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits[:, 0] - labels.to(logits.dtype)) ** 2  # (items,)

    def _predictions(self, logits: Tensor) -> Tensor:
        return logits[:, 0].double()

    def _metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        return regression_metrics(self.data.metric_names, labels, predictions)
