"""Bytes of tensors over time, by storage: of tensors that hold numbers, and of fake ones that have shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REST = "activations"  # the part of what belongs to no other: what autograd keeps, buffers of an operation, batches


@dataclass(eq=False)
class Block:
    """One storage: its bytes, what it is a part of, and between which events it was there."""

    size: int
    born: int
    died: int | None = None
    part: str = REST


class Tensors(TorchDispatchMode):
    """Within the block it sees every storage that an operation of torch makes on `device`, and when it is freed.

    What an operation takes and frees inside itself is not seen. Views are no storages of their own; storages from
    before the block are seen once they are put to a part.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.clock = 0
        self._blocks: list[Block] = []
        self._known: dict[int, Block] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Lets the operation run and looks at what it gives."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._block(leaf)
        return out

    def put(self, tensors: Iterable[Tensor], part: str, since: int | None = None) -> None:
        """Says what tensors are a part of; with `since`, that they were there from that moment on."""
        for tensor in tensors:
            block = self._block(tensor)
            if block is not None:
                block.part = part
                block.born = block.born if since is None else min(block.born, since)

    def put_all(self, part: str) -> None:
        """Says that whatever is there now and belongs to nothing else is a part of this."""
        for block in self._known.values():
            block.part = part if block.part == REST else block.part

    def peak(self, begin: int = 0, end: int | None = None) -> dict[str, int]:
        """Bytes by part at the moment of the largest sum, between two readings of the clock."""
        end = self.clock if end is None else end
        alive = [b for b in self._blocks if b.born <= end and (b.died is None or b.died > begin)]
        changes: dict[int, int] = {begin: 0}
        for block in alive:
            born = max(block.born, begin)
            changes[born] = changes.get(born, 0) + block.size
            if block.died is not None and block.died <= end:
                changes[block.died] = changes.get(block.died, 0) - block.size
        most, total, moment = -1, 0, begin
        for time in sorted(changes):
            total += changes[time]
            if total > most:
                most, moment = total, time
        parts: dict[str, int] = {}
        for block in alive:
            if max(block.born, begin) <= moment and (block.died is None or block.died > moment):
                parts[block.part] = parts.get(block.part, 0) + block.size
        return parts

    def _block(self, tensor: Tensor) -> Block | None:
        """The storage of a tensor, noted when it is first seen; None for one on another device."""
        if tensor.device.type != self.device.type or tensor.layout != torch.strided:
            return None
        storage = tensor.untyped_storage()
        block = self._known.get(id(storage))
        if block is None:
            self.clock += 1
            block = self._known[id(storage)] = Block(storage.nbytes(), self.clock)
            self._blocks.append(block)
            weakref.finalize(storage, self._freed, id(storage)).atexit = False
        return block

    def _freed(self, key: int) -> None:
        self.clock += 1
        self._known.pop(key).died = self.clock
