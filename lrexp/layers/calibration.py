"""Statistics of the inputs of a model's layers over calibration batches, one group of layers at a time.

Layers that get the same tensor (q, k and v; gate and up) are one group and share their statistics. A forward pass
ends as soon as the group's last input is seen, and nothing of one group is held while the next is at work. Tokens of
padding do not count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Forward = Callable[[nn.Module, Batch], object]


@dataclass(frozen=True)
class InputGroup:
    """Layers that share every input, and how often each is called in one forward pass."""

    names: tuple[str, ...]
    calls: int


class Accumulator(Protocol):
    """What is summed over the rows of inputs."""

    def add(self, rows: Tensor) -> None:
        """Takes rows (tokens, n), float32 or better."""
        ...


@dataclass
class SecondMoment:
    """Sum of x x^T over tokens: products in the data's float32 (or better), their sum over batches in float64."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))  # (n, n)
    tokens: int = 0

    def add(self, rows: Tensor) -> None:
        """Takes rows (tokens, n)."""
        if self.tokens == 0:
            self.total = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        self.total += rows.mT @ rows
        self.tokens += len(rows)


@dataclass
class MeanMagnitude:
    """Sum of |x| over tokens, channel by channel."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))  # (n,)
    tokens: int = 0

    def add(self, rows: Tensor) -> None:
        """Takes rows (tokens, n)."""
        self.total = self.total.to(rows.device) + rows.abs().sum(0, dtype=torch.float64)
        self.tokens += len(rows)

    def mean(self) -> Tensor:
        """The mean of |x_j|, (n,) in float64."""
        return self.total / max(1, self.tokens)


class _Seen(Exception):
    """All that is wanted of a forward pass has been seen."""


def input_groups(model: nn.Module, names: Iterable[str], forward: Forward, batch: Batch) -> list[InputGroup]:
    """The layers by the tensors that they get, in the order in which one forward pass reaches them.

    A layer that the pass does not reach is in no group.
    """
    seen: dict[str, list[int]] = {}
    last: list[Tensor] = []  # held, so that its identity stays its own
    count = 0

    def observe(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal count, last
            if not last or inputs[0] is not last[0]:
                last, count = [inputs[0]], count + 1
            seen.setdefault(name, []).append(count)

        return hook

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_pre_hook(observe(name)).remove)
        stack.enter_context(_quiet(model))
        forward(model, batch)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, inputs in seen.items():
        groups.setdefault(tuple(inputs), []).append(name)
    return [InputGroup(tuple(members), len(inputs)) for inputs, members in groups.items()]


def collect(
    model: nn.Module, group: InputGroup, batches: Iterable[Batch], forward: Forward, accumulator: Accumulator
) -> None:
    """Adds the inputs of the group's layers over all batches, without those at padding (`attention_mask` is 0)."""
    calls, mask = 0, None

    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal calls
        calls += 1
        accumulator.add(_rows(inputs[0], mask))
        if calls == group.calls:
            raise _Seen

    handle = model.get_submodule(group.names[0]).register_forward_pre_hook(observe)
    try:
        with _quiet(model):
            for batch in batches:
                calls, mask = 0, batch.get("attention_mask")
                with contextlib.suppress(_Seen):
                    forward(model, batch)
    finally:
        handle.remove()


@contextlib.contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """(tokens, n) in float32 or better; a mask counts where the input has one row for each of its entries."""
    rows = x.detach().reshape(-1, x.shape[-1])
    if mask is not None and mask.numel() == len(rows):
        rows = rows[mask.reshape(-1).bool()]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
