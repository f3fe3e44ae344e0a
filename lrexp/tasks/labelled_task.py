"""What tasks of labelled items share: the way from logits to loss, predictions and metrics."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.models.model_spec import Outputs
from lrexp.spec.errors import RunError
from lrexp.tasks.base import Batch, Split, Task
from lrexp.tasks.labelled import Labelled
from lrexp.tasks.metrics import classification_metrics, regression_metrics

NOT_INPUTS = ("labels", "row")  # of a batch; the rest is what the model is called with


class LabelledTask(Task):
    """A model that maps an item to logits, `model(**inputs).logits`.

    `labels` are the names of the classes, None for regression. A batch holds the model's inputs, `labels` (int64 or
    float64) and `row`, the item's number in its split as read.
    """

    def __init__(
        self,
        data: Labelled,
        splits: dict[str, Split],
        labels: tuple[str, ...] | None,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.splits = splits
        self.labels = labels
        self.primary_metric = data.primary
        self.metric_names = (*data.metric_names, "loss")
        problem = "regression" if labels is None else "single_label_classification"
        kind = "classification" if image_shape is None else "image_classification"
        self.outputs = Outputs(kind, 1 if labels is None else len(labels), problem, image_shape)
        self._named = data.metric_names

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
        inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
        logits = model(**inputs).logits
        assert logits.shape == (len(batch["labels"]), self.outputs.num_labels), f"logits {tuple(logits.shape)}"
        return logits if logits.dtype == torch.float64 else logits.float()  # (items, num_labels)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def _predictions(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def _metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        raise NotImplementedError


class Classification(LabelledTask):
    """Cross entropy over the classes."""

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")  # (items,)

    def _predictions(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def _metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        return classification_metrics(self._named, labels, predictions, self.outputs.num_labels)


class Regression(LabelledTask):
    """Squared error of the one logit."""

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits[:, 0] - labels.to(logits.dtype)) ** 2  # (items,)

    def _predictions(self, logits: Tensor) -> Tensor:
        return logits[:, 0].double()

    def _metrics(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        return regression_metrics(self._named, labels, predictions)
