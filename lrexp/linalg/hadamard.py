"""The Walsh-Hadamard transform by small matrix products: H_{ab} = H_a (x) H_b, so a vector is a grid, one axis a pass.

Every pass multiplies the last axis by a small Hadamard matrix and puts it first; after the last pass all axes are back
in their order. On a CPU a pass of radix 16 costs what four levels of butterflies cost as single additions at long
strides, and does not slow down at short ones. Long vectors go block by block through the cache.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

RADIX_BITS = 4  # radix 16: 8 and 16 are the fastest on a CPU, 32 and 64 take 1.6 and 3 times as long
BLOCK = 2**20  # elements that go through all their passes together on a CPU


def hadamard_transform(x: Tensor, dim: int = -1) -> Tensor:
    """H x along one axis, with H unnormalised and in Sylvester's (natural) order: H H x = L x.

    Computed in float32 or better, returned in x's dtype. Not differentiable by autograd: H is its own transpose, so the
    gradient is the transform of the gradient. Raises ValueError for a length that is no power of two.
    """
    L = x.shape[dim]
    if L < 1 or L & (L - 1):
        raise ValueError(f"the axis has {L} elements: a Hadamard transform needs a power of two")
    moved = x.movedim(dim, -1)
    rows = moved.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, L)
    out = _transformed(rows.contiguous())
    return out.view(moved.shape).movedim(-1, dim).to(x.dtype)


def _transformed(rows: Tensor) -> Tensor:
    """(n, L) to (n, L): the lowest bits block by block, then those that reach across blocks."""
    n, L = rows.shape
    out = torch.empty_like(rows)
    length = min(L, BLOCK) if rows.device.type == "cpu" else L
    step = max(1, BLOCK // length) if rows.device.type == "cpu" else max(1, n)
    blocks, into = rows.view(-1, length), out.view(-1, length)
    for start in range(0, len(blocks), step):
        _rotate(blocks[start : start + step], into[start : start + step])
    across = L // length
    for bits in _passes(across.bit_length() - 1):
        r = 1 << bits
        across //= r
        grid = out.view(n * across, r, L // (across * r))  # bits from the lowest to the highest
        out = torch.matmul(_matrix(bits, out.dtype, out.device), grid).view(n, L)
    return out


def _rotate(rows: Tensor, into: Tensor) -> None:
    """Writes the transform of every row of (n, L): each pass takes the last axis and makes it the first."""
    n, L = rows.shape
    passes = _passes(L.bit_length() - 1)
    if not passes:
        into.copy_(rows)
        return
    spare = [torch.empty_like(rows) for _ in range(min(2, len(passes) - 1))]
    x = rows
    for i, bits in enumerate(passes):
        r = 1 << bits
        target = into if i == len(passes) - 1 else spare[i % 2]
        H = _matrix(bits, rows.dtype, rows.device)
        if n == 1:
            torch.mm(H, x.view(L // r, r).mT, out=target.view(r, L // r))
        else:
            torch.bmm(H.expand(n, r, r), x.view(n, L // r, r).mT, out=target.view(n, r, L // r))
        x = target


def _passes(bits: int) -> list[int]:
    """How many bits each pass takes: as few passes as the radix allows, of nearly equal size."""
    count = -(-bits // RADIX_BITS)
    return [(bits + i) // count for i in range(count)]


@cache
def _matrix(bits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """H of size 2^bits."""
    with torch.inference_mode(False):
        H = torch.ones(1, 1, dtype=dtype, device=device)
        for _ in range(bits):
            H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
        return H
