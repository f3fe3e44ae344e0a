"""Predictions and metrics of one split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.engine.sampler import in_order
from lrexp.tasks.base import Split, Task

Columns = dict[str, np.ndarray]


def predict(
    model: nn.Module,
    task: Task,
    split: Split,
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
    check: Callable[[], None] = lambda: None,
) -> Columns:
    """Columns of predictions in the order of the split's items. `check` may raise Interrupted between two batches."""
    was_training = model.training
    model.eval()
    parts: list[Columns] = []
    try:
        with torch.inference_mode():
            for batch in batches(task, split, batch_size, device):
                check()
                with autocast():
                    parts.append(task.predict(model, batch))
    finally:
        model.train(was_training)
    back = np.argsort(np.concatenate(in_order(split.lengths, batch_size)), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}


def batches(task: Task, split: Split, batch_size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """The batches of an evaluation, on the device."""
    for indices in in_order(split.lengths, batch_size):
        batch = task.collate([split.items[i] for i in indices])
        yield {name: tensor.to(device) for name, tensor in batch.items()}
