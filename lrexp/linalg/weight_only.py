"""Matrices stored in fewer bits: int8 and int4 as torchao quantises weights, nf4 as bitsandbytes does.

    int8    W_ij = s_i q_ij                         s: one scale for each row, float32
    int4    W_ij = s_ig (q_ij - z_ig)               s, z: one pair for each group of 32 in a row
    nf4     W_k = a_g code[q_k]                     a: the largest magnitude of each 64 entries, row after row

torchao: Int8WeightOnlyConfig, and IntxWeightOnlyConfig with torch.int4, PerGroup(32) and an asymmetric mapping, whose
own tensors hold int4 in whole bytes. bitsandbytes: quantize_4bit of nf4 without a second quantisation of a; Dettmers et
al. 2023, arXiv 2305.14314, sections 2 and 3. What is kept are plain tensors, two 4-bit numbers in a byte. `dense` gives
the same numbers as the library's own dequantisation.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Kind = Literal["int8", "int4", "nf4"]
GROUP = 32  # of int4: entries of a row that share a scale and a zero
BLOCK = 64  # of nf4: entries that share a scale


class Int8(NamedTuple):
    """A matrix (m, n) in bytes."""

    data: Tensor  # (m, n), int8
    scale: Tensor  # (m, 1)
    dtype: torch.dtype  # of the matrix that was stored

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.data.shape[0], self.data.shape[1]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix, computed in float32 or better where the scales are, rounded once."""
        return self.data.to(torch.promote_types(self.scale.dtype, dtype)).mul_(self.scale).to(dtype)


class Int4(NamedTuple):
    """A matrix (m, n) in half bytes, the left half of its columns in the lower ones."""

    data: Tensor  # (m, n / 2), uint8
    scale: Tensor  # (m, n / 32)
    zero: Tensor  # (m, n / 32), uint8: what stands for 0
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.data.shape[0], 2 * self.data.shape[1]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix, computed in the wider of the scales' precision and `dtype`."""
        codes = torch.cat([self.data & 15, self.data >> 4], dim=1)
        groups = codes.to(torch.promote_types(self.scale.dtype, dtype)).view(*self.scale.shape, GROUP)
        return groups.sub_(self.zero[..., None]).mul_(self.scale[..., None]).view(self.shape).to(dtype)


class NF4(NamedTuple):
    """A matrix (m, n) in half bytes, row after row, the even entries in the upper ones."""

    data: Tensor  # (m, n / 2), uint8
    scale: Tensor  # (m n / 64,), float32
    code: Tensor  # (16,), float32
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.data.shape[0], 2 * self.data.shape[1]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix, computed in float32 or better, rounded once; by bitsandbytes' own kernel on CUDA."""
        if self.data.is_cuda:
            packed = self.data.view(-1, 1)
            return torch.ops.bitsandbytes.dequantize_4bit(packed, self.scale, BLOCK, "nf4", list(self.shape), dtype)
        if isinstance(self.data, FakeTensor):  # what the kernel takes
            return self.data.new_empty(self.shape, dtype=dtype)
        codes = torch.stack([self.data >> 4, self.data & 15], dim=2).view(-1).int()
        scales = self.scale.repeat_interleave(BLOCK)[: len(codes)]
        return self.code.index_select(0, codes).mul_(scales).view(self.shape).to(dtype)


Quantised = Int8 | Int4 | NF4
Weight = Tensor | Quantised


def dense(W: Weight, dtype: torch.dtype) -> Tensor:
    """The matrix in a precision, however it is stored."""
    return W.to(dtype) if isinstance(W, Tensor) else W.dense(dtype)


def fits(n: int, kind: Kind) -> bool:
    """Whether rows of n entries can be stored so: int4 needs whole groups, nf4 whole bytes."""
    return n % {"int8": 1, "int4": GROUP, "nf4": 2}[kind] == 0


def blank(W: Tensor, kind: Kind) -> Quantised:
    """What a matrix (m, n) becomes, without numbers: for one that has a shape alone."""
    (m, n), dtype = W.shape, W.dtype
    if kind == "int8":
        return Int8(W.new_empty(m, n, dtype=torch.int8), W.new_empty(m, 1, dtype=torch.float32), dtype)
    half = W.new_empty(m, n // 2, dtype=torch.uint8)
    if kind == "int4":
        return Int4(half, W.new_empty(m, n // GROUP), W.new_empty(m, n // GROUP, dtype=torch.uint8), dtype)
    scale = W.new_empty(-(-m * n // BLOCK), dtype=torch.float32)
    return NF4(half, scale, W.new_empty(16, dtype=torch.float32), dtype)
