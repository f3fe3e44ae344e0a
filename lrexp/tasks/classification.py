"""Sequence classification and regression: a model that maps one or two texts to logits, `model(**inputs).logits`."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lrexp.tasks.base import Item, Split
from lrexp.tasks.labelled import ClassificationData
from lrexp.tasks.labelled_task import Classification, LabelledTask, Regression

_MULTIPLE = 8  # widths of batches: fewer shapes, and what tensor cores like


class SequenceTask(LabelledTask):
    """What classification and regression of texts share: items and collation.

    The inputs of a batch are what the tokenizer gives and `attention_mask`.
    """

    def __init__(
        self, data: ClassificationData, splits: dict[str, Split], labels: tuple[str, ...] | None, tokenizer: Any
    ) -> None:
        super().__init__(data, splits, labels)
        self.data = data
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


class SequenceClassification(SequenceTask, Classification):
    """A class for each text or pair of texts."""

    kind: ClassVar[str] = "classification"


class SequenceRegression(SequenceTask, Regression):
    """A number for each text or pair of texts."""

    kind: ClassVar[str] = "regression"
