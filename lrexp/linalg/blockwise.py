"""Tensors in 8 bits, block by block: codes into a map of 256 values, times the largest magnitude of the block.

Dettmers et al. 2022, arXiv 2110.02861, sections 2.1 and 2.2 (dynamic tree quantisation). The nearest entry is taken.
bitsandbytes on a CPU first snaps to a grid of 2^16 - 1 steps, which is coarser than the map near 0.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

_EXPONENTS = 7  # powers of ten from 1e-6 to 1


class Blockwise(NamedTuple):
    """A tensor in 8 bits: `codes` (uint8, the tensor's shape) and `absmax` (float32, one for each block, row-major)."""

    codes: Tensor
    absmax: Tensor


def dynamic_map(is_signed: bool) -> Tensor:
    """The 256 values of the map, float32 ascending: 0, 1 and, for each power of ten, evenly spaced fractions of it.

    Larger powers have more fractions, twice as many from one to the next; a signed map has half as many on each side.
    """
    values = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    for exponent in range(_EXPONENTS):
        count = 2**exponent if is_signed else 2 ** (exponent + 1)
        bounds = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
        fractions = (bounds[:-1] + bounds[1:]) / 2 * 10.0 ** (exponent + 1 - _EXPONENTS)
        values += [fractions, -fractions] if is_signed else [fractions]
    return torch.cat(values).sort().values.float()


@cache
def _map_and_bounds(is_signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The map and the middles between its entries, on the device."""
    with unset_fake_temporarily():  # what is kept has numbers, also where it is first asked for on shapes alone
        entries = dynamic_map(is_signed).to(device)
        return entries, (entries[1:] + entries[:-1]) / 2


def quantise(tensor: Tensor, is_signed: bool, block: int) -> Blockwise:
    """The tensor, of any shape, in blocks of `block` entries (the last may be short)."""
    _, bounds = _map_and_bounds(is_signed, tensor.device)
    flat = tensor.float().flatten()
    whole = -(-flat.numel() // block) * block
    blocks = torch.nn.functional.pad(flat, (0, whole - flat.numel())).view(-1, block)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / torch.where(absmax == 0, 1.0, absmax)[:, None]
    codes = torch.bucketize(scaled, bounds, out_int32=True).to(torch.uint8)
    return Blockwise(codes.flatten()[: flat.numel()].view(tensor.shape), absmax)


def dequantise(held: Blockwise, is_signed: bool, block: int) -> Tensor:
    """The float32 tensor that the codes stand for."""
    entries, _ = _map_and_bounds(is_signed, held.codes.device)
    flat = entries[held.codes.flatten().int()]
    scales = held.absmax.repeat_interleave(block)[: flat.numel()]
    return (flat * scales).view(held.codes.shape)
