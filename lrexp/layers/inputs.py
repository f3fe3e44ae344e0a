"""What flows into chosen layers during a forward pass: which of them share an input, and the inputs themselves."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
IGNORED = -100  # the label of a token that is not predicted


class _Enough(Exception):
    """The last input that is wanted has come: the rest of the forward pass is not needed."""


@dataclass(frozen=True)
class Groups:
    """Layers that are given the very same tensors: the first of each group leads it. `calls` counts their calls.

    `reached` names the layers in the order in which a pass first comes to them, without those that it never reaches.
    """

    leader: Mapping[str, str]
    calls: Mapping[str, int]
    reached: tuple[str, ...]

    def members(self, leader: str) -> list[str]:
        """The layers of a group in the model's order, its leader among them."""
        return [name for name, first in self.leader.items() if first == leader]

    @property
    def leaders(self) -> list[str]:
        """The first layer of each group, in the model's order."""
        return [name for name, first in self.leader.items() if first == name]


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode: no dropout, fixed statistics; after it, as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def find_groups(model: nn.Module, names: Sequence[str], forward: Callable[[], object]) -> Groups:
    """Which of the layers get the same tensor, not only equal numbers, at each of their calls in `forward()`."""
    live: list[tuple[weakref.ref[Tensor], str]] = []
    owners: dict[str, list[str]] = {name: [] for name in names}
    reached: dict[str, None] = {}

    def note(name: str, x: Tensor) -> None:
        reached.setdefault(name)
        live[:] = [(ref, owner) for ref, owner in live if ref() is not None]
        found = next((owner for ref, owner in live if _is_same(ref(), x)), None)
        if found is None:
            live.append((weakref.ref(x), name))
        owners[name].append(found or name)

    with _listening(model, names, note):
        forward()
    leader = {}
    for name, found in owners.items():
        first = found[0] if found else name
        alike = set(found) == {first} and len(owners[first]) == len(found) and set(owners[first]) == {first}
        leader[name] = first if alike else name
    return Groups(leader, {name: len(found) for name, found in owners.items()}, tuple(reached))


def _is_same(one: Tensor | None, other: Tensor) -> bool:
    if one is None:
        return False
    return one is other or (
        one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
    )


def listen(
    model: nn.Module, calls: Mapping[str, int], take: Callable[[str, Tensor], None], forward: Callable[[], object]
) -> None:
    """Runs `forward()` with `take(name, input)` at every call of the layers in `calls`, and no further than needed.

    `calls` says how often each is called: once the last has been, the rest of the pass is left out.
    """
    left = Counter(calls)

    def count(name: str, x: Tensor) -> None:
        take(name, x)
        left[name] -= 1
        if not any(n > 0 for n in left.values()):
            raise _Enough

    with _listening(model, list(calls), count):
        try:
            forward()
        except _Enough:
            return


class Accumulator(Protocol):
    """What is summed over the rows of inputs."""

    def add(self, rows: Tensor) -> None:
        """Takes rows (tokens, n), float32 or better."""
        ...


def collect(
    model: nn.Module,
    calls: Mapping[str, int],
    batches: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], object],
    accumulators: Mapping[str, Accumulator],
) -> None:
    """Adds the inputs of layers over all batches, each to its accumulator; those at padding do not count.

    `calls` says how often each layer is called in a pass, which goes no further than the last of these calls.
    """
    with at_rest(model), torch.no_grad():
        for batch in batches:
            mask = token_mask(batch, use_labels=False)
            listen(
                model,
                calls,
                lambda name, x, mask=mask: accumulators[name].add(rows(x, mask)),
                partial(forward, model, batch),
            )


@contextmanager
def _listening(model: nn.Module, names: Sequence[str], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: take(name, inputs[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def token_mask(batch: Mapping[str, Tensor], use_labels: bool) -> Tensor | None:
    """Which tokens (items, width) of a batch count: no padding and, with `use_labels`, none that is not predicted.

    None where the batch says nothing of that. Labels of another shape are those of whole items and say nothing either.
    """
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    labels = batch.get("labels") if use_labels else None
    chosen = None if mask is None else mask.bool()
    if labels is not None and labels.ndim == 2 and (ids is None or labels.shape == ids.shape):
        chosen = labels != IGNORED if chosen is None else chosen & (labels != IGNORED)
    return chosen


def rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """The vectors (T, n), float32 or better, of an input (..., n): those of the mask's tokens, where it has tokens.

    They may lie in rows already, one a token. They are a copy.
    """
    wide, flat = torch.promote_types(x.dtype, torch.float32), x.detach().flatten(0, -2)
    if mask is not None and x.shape[:-1] in (mask.shape, (mask.numel(),)):
        return flat[mask.flatten()].to(wide)
    return flat.to(wide, copy=True)
