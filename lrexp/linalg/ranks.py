"""Ranks for a budget of parameters: a product of rank r keeps r (m + n) of the m n numbers of an (m, n) matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Shape = tuple[int, int]


def uniform_rank(m: int, n: int, keep_ratio: float) -> int:
    """The highest rank whose product keeps at most this fraction of the parameters; not capped by min(m, n).

    SVD-LLM (arXiv 2403.07378), the authors' code: int(m n rho / (m + n)).
    """
    return int(m * n * keep_ratio / (m + n))


def saves(m: int, n: int, r: int) -> bool:
    """Whether a product of rank r has fewer parameters than the matrix."""
    return r * (m + n) < m * n


def global_ranks(spectra: Sequence[Tensor], shapes: Sequence[Shape], budget: int) -> list[int | None]:
    """Ranks of all matrices together for a budget of parameters; None where the matrix itself stays.

    `spectra` holds each matrix's singular values, descending. One more rank of matrix i lowers the summed error by
    sigma^2 and costs m + n: the components are taken in the order of sigma^2 / (m + n), ties by index, up to the
    budget; every matrix keeps its first. A matrix whose product would save nothing stays as it is, for m n, and the
    others share what is left. Raises ValueError where the budget does not hold rank 1 of every matrix.
    """
    lowest = sum(m + n for m, n in shapes)
    if budget < lowest:
        raise ValueError(f"a budget of {budget} parameters does not hold rank 1 of every layer, which takes {lowest}")
    ranks: list[int | None] = [0] * len(shapes)
    while True:
        open_ = [i for i, r in enumerate(ranks) if r is not None]
        left = budget - sum(m * n for (m, n), r in zip(shapes, ranks, strict=True) if r is None)
        for i, r in zip(open_, _cut([spectra[i] for i in open_], [shapes[i] for i in open_], left), strict=True):
            ranks[i] = r
        dense = [i for i in open_ if not saves(*shapes[i], ranks[i] or 0)]
        if not dense:
            return ranks
        for i in dense:
            ranks[i] = None


def _cut(spectra: Sequence[Tensor], shapes: Sequence[Shape], budget: int) -> list[int]:
    """How many leading components of each matrix lie before the point where the budget is used up."""
    if not spectra:
        return []
    costs = torch.tensor([m + n for m, n in shapes])
    counts = torch.tensor([len(S) for S in spectra])
    owner = torch.arange(len(shapes)).repeat_interleave(counts)  # of each component
    scores = torch.cat([S.cpu().double() for S in spectra]).square() / costs[owner]
    scores[counts.cumsum(0) - counts] = torch.inf  # the first of each
    order = scores.argsort(descending=True, stable=True)
    taken = costs[owner[order]].cumsum(0) <= budget
    return owner[order][taken].bincount(minlength=len(shapes)).tolist()
