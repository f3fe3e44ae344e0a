"""Projections of a weight's gradient to a small tensor, and of the small tensor's move back: what `Projected` needs.

A projector keeps what it has found in a dict of tensors and plain values, which the optimizer holds as a part of the
weight's state; it is itself a pure function of the weight's shape and its settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lrexp.linalg.subspace import exact_basis, iterated_basis, raw_basis
from lrexp.linalg.svd import canonical_rows, test_shape

Kept = dict[str, Any]
Draw = Callable[[int], torch.Generator]  # a fresh generator for the step
ProjType = Literal["std", "reverse_std", "left", "right", "full"]
Side = Literal["left", "right", "full"]


class Projector(Protocol):
    """One weight's projection. All tensors are in the layout of the weight itself unless they are low-rank."""

    def refresh(self, kept: Kept, gradient: Tensor, step: int) -> None:
        """Brings what is kept up to date for this step of the weight (from 0), before its gradient is projected."""
        ...

    def project(self, kept: Kept, tensor: Tensor) -> Tensor:
        """The low-rank tensor for one of the weight's shape."""
        ...

    def lift(self, kept: Kept, weight: Tensor, move: Tensor, beta: float) -> None:
        """Sets weight to beta weight + the low-rank move brought back, in place."""
        ...


def side_of(shape: tuple[int, int], proj_type: ProjType) -> Side:
    """Which side of an (m, n) gradient is projected; std projects the shorter one, the right one of a square."""
    m, n = shape
    if proj_type == "std":
        return "right" if m >= n else "left"
    if proj_type == "reverse_std":
        return "left" if m >= n else "right"
    return proj_type


class SubspaceProjector:
    """Onto the `rank` leading singular vectors of the gradient, found anew every `gap` steps.

    right: R = G Q^T (m, r), back R Q; left: R = P^T G (r, n), back P R; full: R = P^T G Q^T (r, r), back P R Q, with
    P (m, r) and Q (r, n), kept in the gradient's precision as "left" and "right". A weight of more than two
    dimensions is a matrix of its first one and all others; `is_transposed` says that a layer stores it as (in, out).
    A rank above min(m, n) is min(m, n).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        rank: int,
        gap: int,
        scale: float,
        proj_type: ProjType,
        basis: Callable[[Tensor, int, Tensor | None, int], Tensor],
        is_transposed: bool = False,
    ) -> None:
        m, n = shape[0], torch.Size(shape[1:]).numel()
        self.shape = (n, m) if is_transposed else (m, n)
        self.rank, self.gap, self.scale = min(rank, m, n), gap, scale
        self.side = side_of(self.shape, proj_type)
        self.basis, self.is_transposed = basis, is_transposed

    def matrix(self, tensor: Tensor) -> Tensor:
        """An (m, n) view of a tensor of the weight's shape."""
        return tensor.T if self.is_transposed else tensor.view(len(tensor), -1)

    def refresh(self, kept: Kept, gradient: Tensor, step: int) -> None:
        """Takes the leading singular vectors of this gradient at steps 0, gap, 2 gap, ..."""
        if step % self.gap:
            return
        G = self.matrix(gradient)
        if self.side != "right":
            old = kept.get("left")
            kept["left"] = self.basis(G.mT, self.rank, old, step).to(G.dtype).contiguous()  # (m, r)
        if self.side != "left":
            old = None if "right" not in kept else kept["right"].mT
            kept["right"] = self.basis(G, self.rank, old, step).mT.to(G.dtype).contiguous()  # (r, n)

    def project(self, kept: Kept, tensor: Tensor) -> Tensor:
        """R for a gradient, or any tensor of the weight's shape."""
        R = self.matrix(tensor)
        if self.side != "right":
            R = kept["left"].mT @ R  # (r, m) @ (m, n)
        return R if self.side == "left" else R @ kept["right"].mT  # (., n) @ (n, r)

    def lift(self, kept: Kept, weight: Tensor, move: Tensor, beta: float) -> None:
        """W <- beta W + scale P move Q, in one product of thin matrices: nothing of W's size is made."""
        W = self.matrix(weight)
        if self.side == "left":
            W.addmm_(kept["left"], move, beta=beta, alpha=self.scale)
            return
        left = kept["left"] @ move if self.side == "full" else move  # (m, r)
        W.addmm_(left, kept["right"], beta=beta, alpha=self.scale)


class Basis:
    """How the singular vectors of a gradient are found; `draw` gives the generator of a step."""

    def __init__(
        self, svd: Literal["subspace", "exact"], niter: int, oversampling: int, sign: Literal["canonical", "raw"],
        draw: Draw,
    ) -> None:  # fmt: skip
        self.svd, self.niter, self.oversampling, self.sign, self.draw = svd, niter, oversampling, sign, draw

    def __call__(self, matrix: Tensor, r: int, old: Tensor | None, step: int) -> Tensor:
        """The r leading right singular vectors (n, r) of an (m, n) matrix; `old` are those of the last time."""
        if self.svd == "exact":
            return exact_basis(matrix, r).contiguous() if self.sign == "canonical" else raw_basis(matrix, r)
        niter = self.niter + (old is None)  # a random start is further away, and comes once
        found = iterated_basis(matrix, r, self._start(matrix, r, old, step), niter)
        return canonical_rows(found.mT).mT.contiguous() if self.sign == "canonical" else found

    def _start(self, matrix: Tensor, r: int, old: Tensor | None, step: int) -> Tensor:
        """The old basis and `oversampling` random columns beside it; all are random the first time."""
        m, n = matrix.shape
        q = test_shape((m, n), r, self.oversampling)[1]
        drawn = torch.randn(n, q if old is None else q - r, generator=self.draw(step)) / n**0.5  # of about unit length
        drawn = drawn.to(matrix.device, torch.float32)
        return drawn if old is None else torch.cat([old.to(torch.float32), drawn], dim=1)
