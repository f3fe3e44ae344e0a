"""Causal language modelling: every token of a sequence but its first is predicted from those before it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.models.model_spec import Outputs
from lrexp.spec.errors import RunError
from lrexp.tasks.base import Batch, Item, Split, Task
from lrexp.tasks.language import METRICS, LanguageData
from lrexp.tasks.metrics import language_metrics
from lrexp.tasks.streamed import StreamedData

IGNORED = -100  # the label of what is not predicted
_MULTIPLE = 8  # widths of batches: fewer shapes, and what tensor cores like


class LanguageModelling(Task):
    """The loss and the metrics of next-token prediction; what is predicted, a subclass says by the labels of a batch.

    The loss of a batch is a sum over its targets, its mean weighted by tokens, not by sequences.
    """

    def __init__(
        self, splits: dict[str, Split], tokenizer: Any, primary_metric: str, metric_names: tuple[str, ...]
    ) -> None:
        self.splits = splits
        self.primary_metric = primary_metric
        self.metric_names = metric_names
        self.outputs = Outputs("causal_lm")
        self.pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def targets(self, batch: Batch) -> int:
        """The tokens that are predicted."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def tokens(self, batch: Batch) -> int:
        """Tokens that are not padding."""
        mask = batch.get("attention_mask")
        return batch["input_ids"].numel() if mask is None else int(mask.sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy in nats summed over the targets, in float32 or, from a float64 model, float64."""
        return self._losses(model, batch).sum()

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """`row`, and of each sequence the summed `loss` in nats, its target `tokens` and their `bytes`."""
        losses = self._losses(model, batch)  # (items, width - 1)
        tokens = (batch["labels"][:, 1:] != IGNORED).sum(1)
        columns = {"row": batch["row"], "loss": losses.double().sum(1), "tokens": tokens, "bytes": batch["bytes"]}
        return {name: column.cpu().numpy() for name, column in columns.items()}

    def metrics(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss per token, perplexity and bits per byte, with standard errors over sequences. Raises RunError."""
        if not np.isfinite(predictions["loss"]).all():
            raise RunError("the loss of an evaluated sequence is not finite")
        return language_metrics(predictions["loss"], predictions["tokens"], predictions["bytes"])

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each target, 0 where there is none, (items, width - 1)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask"), use_cache=False).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        flat, labels = logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:]
        losses = F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view(labels.shape)


class CausalLM(LanguageModelling):
    """Batches hold `input_ids`, `labels` (items, width) int64, `bytes` of the targets and `row`, (items,) int64.

    An `attention_mask` is there where a batch has padding, on the right.
    """

    kind: ClassVar[str] = "causal_lm"

    def __init__(self, data: LanguageData | StreamedData, splits: dict[str, Split], tokenizer: Any) -> None:
        super().__init__(splits, tokenizer, data.primary_metric, METRICS)
        self.data = data

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Sequences padded to a multiple of 8, at most max_length."""
        ids, is_token = padded([item["input_ids"] for item in items], self.pad, self.data.max_length)
        batch = {
            "input_ids": ids,
            "labels": ids.masked_fill(~is_token, IGNORED),
            "bytes": torch.from_numpy(np.array([item["bytes"][1:].sum() for item in items], np.int64)),
            "row": torch.from_numpy(np.array([item["row"] for item in items])),
        }
        if not is_token.all():
            batch["attention_mask"] = is_token.long()
        return batch


def padded(
    sequences: Sequence[np.ndarray], pad: int, most: int | None = None, width: int | None = None, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Sequences side by side, int64, and where their tokens are, both (items, width).

    The width is that of the longest, made a multiple of 8 but at most `most`, where none is given.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    wide = -(-int(lengths.max()) // _MULTIPLE) * _MULTIPLE
    width = width or min(wide, most or wide)
    column, ends = np.arange(width), lengths[:, None]  # (width,), (items, 1)
    is_token = column >= width - ends if left else column < ends  # (items, width)
    found = np.full(is_token.shape, pad, np.int64)
    found[is_token] = np.concatenate(sequences)
    return torch.from_numpy(found), torch.from_numpy(is_token)
