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

IGNORED = -100  # the label of what is not predicted
_MULTIPLE = 8  # widths of batches: fewer shapes, and what tensor cores like


class CausalLM(Task):
    """Batches hold `input_ids`, `labels` (items, width) int64, `bytes` of the targets and `row`, (items,) int64.

    An `attention_mask` is there where a batch has padding, on the right. The loss of a batch is a sum over its targets,
    its mean weighted by tokens, not by sequences.
    """

    kind: ClassVar[str] = "causal_lm"

    def __init__(self, data: LanguageData, splits: dict[str, Split], tokenizer: Any) -> None:
        self.data = data
        self.splits = splits
        self.primary_metric = data.primary_metric
        self.metric_names = METRICS
        self.outputs = Outputs("causal_lm")
        self._pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Sequences padded to a multiple of 8, at most max_length."""
        lengths = np.array([len(item["input_ids"]) for item in items])
        width = min(-(-int(lengths.max()) // _MULTIPLE) * _MULTIPLE, self.data.max_length)
        is_token = np.arange(width) < lengths[:, None]  # (items, width)
        ids = np.full(is_token.shape, self._pad, np.int64)
        ids[is_token] = np.concatenate([item["input_ids"] for item in items])
        batch = {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(np.where(is_token, ids, IGNORED)),
            "bytes": torch.from_numpy(np.array([item["bytes"][1:].sum() for item in items], np.int64)),
            "row": torch.from_numpy(np.array([item["row"] for item in items])),
        }
        if not is_token.all():
            batch["attention_mask"] = torch.from_numpy(is_token.astype(np.int64))
        return batch

    def targets(self, batch: Batch) -> int:
        """The tokens that are predicted."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def tokens(self, batch: Batch) -> int:
        """Tokens that are not padding."""
        return int((batch["labels"] != IGNORED).sum())

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
