"""The Walsh-Hadamard transform by small matrix products: H_{ab} = H_a (x) H_b, so a vector is a grid, one axis a pass.

Every pass multiplies the last axis by a small Hadamard matrix and puts it first; after the last pass all axes are back
in their order. On a CPU a pass of radix 8 or 16 costs what as many levels of butterflies cost as single additions at
long strides, and no more at short ones. It works in place, block by block through the cache, between the block and one
scratch buffer: fresh memory for every pass would cost more than the arithmetic.
"""

from __future__ import annotations

import threading
from functools import cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

RADIX_BITS = 4  # at most radix 16: on a CPU 32 takes 1.6 times as long for its elements, 64 three times
BLOCK = 2**20  # elements that go through all their passes together on a CPU
_own = threading.local()


def hadamard_transform(x: Tensor, dim: int = -1) -> Tensor:
    """H x along one axis, with H unnormalised and in Sylvester's (natural) order: H H x = L x.

    Computed in float32 or better, returned in x's dtype. Not differentiable by autograd: H is its own transpose, so the
    gradient is the transform of the gradient. Raises ValueError for a length that is no power of two.
    """
    moved = x.movedim(dim, -1)
    wide = moved.to(torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format, copy=True)
    return transform_(wide.contiguous()).movedim(-1, dim).to(x.dtype)


@torch.no_grad()
def transform_(x: Tensor) -> Tensor:
    """The same along the last axis and in place, for a contiguous float32 or float64 tensor; returns it."""
    L = x.shape[-1]
    if L < 1 or L & (L - 1):
        raise ValueError(f"the axis has {L} elements: a Hadamard transform needs a power of two")
    if x.numel() == 0:
        return x
    if isinstance(x, FakeTensor):  # a shape alone: there is a scratch, but nothing fake may stay in what is kept
        x.new_empty(BLOCK)
        return x
    length = min(L, BLOCK) if x.device.type == "cpu" else L
    step = max(1, BLOCK // length) if x.device.type == "cpu" else x.numel() // length
    blocks = x.view(-1, length)
    for start in range(0, len(blocks), step):
        _rotate(blocks[start : start + step])
    inner = length  # the bits above a block, from the lowest to the highest
    for bits in _passes((L // length).bit_length() - 1):
        for grid in x.view(-1, 1 << bits, inner):
            _across(grid, bits)
        inner <<= bits
    return x


def _rotate(rows: Tensor) -> None:
    """Transforms every row of (n, L): each pass takes the last axis and makes it the first."""
    n, L = rows.shape
    passes = _passes(L.bit_length() - 1)
    spare = _scratch(rows, n * L).view(n, L)
    x, target = rows, spare
    for bits in passes:
        r = 1 << bits
        H = _matrix(bits, rows.dtype, rows.device)
        if n == 1:
            torch.mm(H, x.view(L // r, r).mT, out=target.view(r, L // r))
        else:
            torch.bmm(H.expand(n, r, r), x.view(n, L // r, r).mT, out=target.view(n, r, L // r))
        x, target = target, x
    if x is spare:
        rows.copy_(spare)


def _across(grid: Tensor, bits: int) -> None:
    """Transforms the columns of (r, length), as many at a time as a block holds."""
    H = _matrix(bits, grid.dtype, grid.device)
    for columns in grid.split(BLOCK >> bits, dim=1):
        out = _scratch(grid, columns.numel()).view(columns.shape)
        columns.copy_(torch.mm(H, columns, out=out))


def _passes(bits: int) -> list[int]:
    """How many bits each pass takes: an even number of passes, of nearly equal size, where one is not enough."""
    count = -(-bits // RADIX_BITS)
    count += count % 2 if count > 1 else 0
    return [(bits + i) // count for i in range(count)]


def _scratch(like: Tensor, size: int) -> Tensor:
    """A buffer of a block: on a CPU one for each thread and dtype, kept."""
    if like.device.type != "cpu":
        return like.new_empty(size)
    kept: dict[torch.dtype, Tensor] = _own.__dict__.setdefault("kept", {})
    if like.dtype not in kept:
        with torch.inference_mode(False):
            kept[like.dtype] = torch.empty(BLOCK, dtype=like.dtype)
    return kept[like.dtype][:size]


@cache
def _matrix(bits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """H of size 2^bits."""
    with torch.inference_mode(False):
        H = torch.ones(1, 1, dtype=dtype, device=device)
        for _ in range(bits):
            H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
        return H
