"""Fastfood: a random d-dimensional subspace of R^D in O(L log L) time and O(L) memory.

Le, Sarlos, Smola 2013, arXiv 1408.3060; as used by Li et al. 2018, arXiv 1804.08838, and SAID, arXiv 2012.13255:

    P theta = first D entries of  H G Pi H B theta / (sqrt(L sum G^2) sqrt(D / L)),     L = 2^ceil(log2 D)

B random signs, Pi a permutation (gather: out = in[Pi]), G Gaussian, H the unnormalised Walsh-Hadamard transform. theta
is padded with zeros to L, so its first transform is that of K = 2^ceil(log2 d) numbers, repeated: the gather reads
entry Pi mod K of it, and only the second transform is of length L. Where L < d, theta is cut to L. Columns have a
length of about 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrexp.linalg.hadamard import transform_


@dataclass(frozen=True)
class Pieces:
    """One draw for a part of D elements: B (min(d, L) or more), Pi (L), G (L); `divisor` is sqrt(L sum G^2)."""

    D: int
    B: Tensor
    Pi: Tensor
    G: Tensor

    @property
    def divisor(self) -> Tensor:
        """sqrt(L sum G^2) in float64."""
        return (len(self.G) * self.G.double().square().sum()).sqrt()


def length(D: int) -> int:
    """L: the power of two at or above D."""
    return 1 << (D - 1).bit_length()


def draw_pieces(D: int, d: int, generator: torch.Generator) -> Pieces:
    """A draw on the CPU. For a larger d the first columns stay what they are."""
    L = length(D)
    Pi = torch.randperm(L, generator=generator, dtype=torch.int32)
    G = torch.randn(L, generator=generator)
    B = torch.randint(0, 2, (min(d, L),), generator=generator, dtype=torch.int8) * 2 - 1
    return Pieces(D, B, Pi, G)


@dataclass(frozen=True, eq=False)
class Fastfood:
    """The projections of n parts of equal L: a map from theta (d) to a vector for each part, and its transpose."""

    sizes: tuple[int, ...]  # D of every part
    d: int
    B: Tensor  # (n, m) int8 with m = min(d, L)
    index: Tensor  # (n L) int32: which of the n K transformed entries goes where
    G: Tensor  # (n, L)
    scale: Tensor  # (n, 1): 1 / (divisor sqrt(D / L)), float64

    @classmethod
    def of(cls, parts: Sequence[Pieces], d: int) -> Fastfood:
        """From the draws of the parts, which are of one L."""
        L = len(parts[0].Pi)
        m = min(d, L)
        K = length(m)
        index = torch.cat([(part.Pi % K + i * K).to(torch.int32) for i, part in enumerate(parts)])
        scale = torch.stack([1 / (part.divisor * (part.D / L) ** 0.5) for part in parts])
        signs = torch.stack([part.B[:m].to(torch.int8) for part in parts])
        return cls(tuple(p.D for p in parts), d, signs, index, torch.stack([p.G for p in parts]), scale[:, None])

    @property
    def L(self) -> int:
        """The length of the long transform."""
        return self.G.shape[1]

    def to(self, device: torch.device) -> Fastfood:
        """The same on a device; nothing is copied if it lies there."""
        moved = {name: getattr(self, name).to(device) for name in ("B", "index", "G", "scale")}
        return self if moved["G"] is self.G else replace(self, **moved)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fastfood:
        return self

    def apply(self, theta: Tensor) -> list[Tensor]:
        """P_i theta of every part, flat; `theta` (d) is float32 or float64."""
        n, m = self.B.shape
        h = theta.new_zeros(n, length(m))
        h[:, :m] = theta[:m] * self.B * self.scale.to(theta.dtype)
        x = transform_(h).view(-1).index_select(0, self.index).view(n, self.L)
        x = transform_(x.mul_(self.G))
        return [x[i, :D] for i, D in enumerate(self.sizes)]

    def adjoint(self, gradients: Sequence[Tensor]) -> Tensor:
        """P_i^T g_i of every part, (n, d); each g_i is flat, float32 or float64."""
        n, m = self.B.shape
        x = gradients[0].new_zeros(n, self.L)
        for row, g in zip(x, gradients, strict=True):
            row[: len(g)] = g
        x = transform_(x).mul_(self.G)
        h = x.new_zeros(n * length(m)).index_add_(0, self.index, x.view(-1)).view(n, -1)
        out = x.new_zeros(n, self.d)
        out[:, :m] = transform_(h)[:, :m] * self.B * self.scale.to(x.dtype)
        return out
