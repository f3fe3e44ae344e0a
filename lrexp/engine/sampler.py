"""Which items make the batch of a step: a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from lrexp.linalg.random import numpy_generator
from lrexp.methods.base import Batch
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec, TrainingSpec
from lrexp.tasks.base import Split, Task

CHUNK = 50  # batches that are sorted by length together


class Sampler:
    """Batches of item indices over epochs; every item once an epoch, the last batch may be smaller.

    With `by_length`, items of similar length share a batch (sorted within random chunks of 50 batches) and the order of
    the batches is random again, so that padding is rare and the lengths don't follow the step.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, by_length: bool) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.by_length = by_length
        self.steps_per_epoch = math.ceil(len(lengths) / batch_size)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def batch(self, step: int) -> np.ndarray:
        """Item indices (batch,) of update number `step`, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index]

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        draw = numpy_generator(self.seed, "data", epoch)
        order = draw.permutation(len(self.lengths))
        if not self.by_length:
            return self._cut(order)
        size = CHUNK * self.batch_size
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        batches = [b for chunk in chunks for b in self._cut(chunk[np.argsort(-self.lengths[chunk], kind="stable")])]
        return [batches[i] for i in draw.permutation(len(batches))]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


class StreamSampler:
    """Batches of item indices of a stream: its blocks one after the other, the items of each in random order.

    A stream is as long as the run, and not sorted by length.
    """

    def __init__(self, items: int, block: int, batch_size: int, seed: int) -> None:
        self.items, self.block, self.batch_size, self.seed = items, block, batch_size, seed
        self.steps_per_epoch = math.ceil(items / batch_size)
        self._order = lru_cache(maxsize=2)(self._make_order)

    def batch(self, step: int) -> np.ndarray:
        """Item indices (batch,) of update number `step`, counted from 0."""
        start, stop = step * self.batch_size, min((step + 1) * self.batch_size, self.items)
        found = []
        for number in range(start // self.block, (stop - 1) // self.block + 1):
            first = number * self.block
            found.append(first + self._order(number)[max(start - first, 0) : stop - first])
        return np.concatenate(found)

    def _make_order(self, number: int) -> np.ndarray:
        size = min(self.block, self.items - number * self.block)
        return numpy_generator(self.seed, "data", number).permutation(size)


def in_order(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches for evaluation: every item once, sorted by length so that padding is rare."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def widest(split: Split, size: int) -> np.ndarray:
    """The `size` longest items of a split; of a stream the first, whose lengths are not known."""
    if split.block is not None:
        return np.arange(min(size, len(split)))
    return np.argsort(-split.lengths, kind="stable")[:size]


def of_run(spec: RunSpec, task: Task) -> Sampler | StreamSampler:
    """The batches of a run: `per_device_train_batch_size` times accumulation times processes items a step."""
    training, split = spec.training, task.splits["train"]
    size = step_items(training, spec.hardware.processes)
    if split.block is not None:
        return StreamSampler(len(split), split.block, size, spec.seed)
    return Sampler(split.lengths, size, spec.seed, training.group_by_length)


def total_steps(training: TrainingSpec, items: int, tokens: int | None = None, processes: int = 1) -> int:
    """Updates of a run over `items` items, each of just `tokens` tokens or of any length (None).

    `max_steps` if given; what fits into `max_tokens`; else the epochs' worth, rounded up. Raises InputError for a
    budget of tokens where items differ in length, or that is less than one step.
    """
    size = step_items(training, processes)
    if training.max_steps is not None:
        return training.max_steps
    if training.max_tokens is None:
        steps = training.num_train_epochs * math.ceil(items / size)
        return math.ceil(round(steps, 6))  # 0.1 epochs of 30 steps are 3, not 3.0000000000000004
    epochs, rest = divmod(budget_items(training, tokens, processes), items)  # the last batch of an epoch may be smaller
    return epochs * math.ceil(items / size) + rest // size


def stream_items(training: TrainingSpec, tokens: int | None, processes: int = 1) -> int | None:
    """How long a stream is for a run: the items of all its steps. None where only epochs say how long it trains."""
    size = step_items(training, processes)
    if training.max_steps is not None:
        return training.max_steps * size
    if training.max_tokens is None:
        return None
    return budget_items(training, tokens, processes) // size * size


def step_items(training: TrainingSpec, processes: int = 1) -> int:
    """The items of one update."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes


def budget_items(training: TrainingSpec, tokens: int | None, processes: int = 1) -> int:
    """How many items of `tokens` tokens fit into `max_tokens`. Raises InputError as `total_steps` does."""
    assert training.max_tokens is not None, "there is a budget"
    if tokens is None:
        raise InputError(
            "training.max_tokens counts packed sequences of one length, and here their lengths differ: set "
            "dataset.packing=true where the data have it, else training.max_steps"
        )
    found, size = training.max_tokens // tokens, step_items(training, processes)
    if found < size:
        raise InputError(f"training.max_tokens is {training.max_tokens}: one step takes {size * tokens} tokens")
    return found


def calibration(task: Task, seed: int, device: torch.device, name: str, count: int, size: int) -> Iterator[Batch]:
    """`count` batches of `size` items of train by the stream `name`; none comes twice while train lasts.

    Of streamed data they are items of the first block.
    """
    split = task.splits["train"]
    order = numpy_generator(seed, f"calibration/{name}").permutation(min(len(split), split.block or len(split)))
    for indices in np.resize(order, (count, size)):
        yield {key: value.to(device) for key, value in task.collate([split.items[i] for i in indices]).items()}
