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
        costs = [sum(shapes[i]) for i in open_]
        scores = [_per_parameter(spectra[i], cost) for i, cost in zip(open_, costs, strict=True)]
        for i, r in zip(open_, pooled_ranks(scores, costs, left), strict=True):
            ranks[i] = r
        dense = [i for i in open_ if not saves(*shapes[i], ranks[i] or 0)]
        if not dense:
            return ranks
        for i in dense:
            ranks[i] = None


def pooled_ranks(scores: Sequence[Tensor], costs: Sequence[int], budget: int) -> list[int]:
    """How many components of each layer are among the best of them all, as far as the budget goes.

    `scores` holds each layer's, descending; a component of layer i costs `costs[i]`. Ties go by index.
    """
    if not scores:
        return []
    owner = torch.arange(len(scores)).repeat_interleave(torch.tensor([len(each) for each in scores]))
    order = torch.cat([each.cpu().double() for each in scores]).argsort(descending=True, stable=True)
    taken = torch.tensor(costs)[owner[order]].cumsum(0) <= budget
    return owner[order][taken].bincount(minlength=len(scores)).tolist()


def _per_parameter(S: Tensor, cost: int) -> Tensor:
    """The error that each component saves for a parameter; the first of a matrix comes before all others."""
    score = S.cpu().double().square() / cost
    score[:1] = torch.inf
    return score
