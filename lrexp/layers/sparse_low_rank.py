"""A linear layer whose weight is a product of thin factors plus a sparse matrix on a fixed support."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import features
from lrexp.layers.factorised import FactorisedLinear
from lrexp.layers.sparse_low_rank_function import dense, sparse_low_rank
from lrexp.linalg.sparse import index_dtype


class SparseLowRankLinear(FactorisedLinear):
    """y = x (s B A + S)^T + b; S (m, n) has the trained values v (nnz,) at the flat row-major positions `support`.

    With `trainable_scaling` s is tanh(p) for a trained scalar p that starts at 1, else the number `scaling`. Factors,
    values and support have no values yet.
    """

    support: Tensor

    def __init__(self, base: nn.Module, r: int, nnz: int, scaling: float, trainable_scaling: bool = False) -> None:
        super().__init__(base, r, scaling)
        m, n = features(base)
        self.v = nn.Parameter(self.A.new_empty(nnz))
        self.register_buffer("support", torch.empty(nnz, dtype=index_dtype(m * n), device=self.A.device))
        self.p = nn.Parameter(self.A.new_ones(())) if trainable_scaling else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to (..., m), without a matrix of the weight's size among what is kept for the backward pass."""
        B, s = (self.B, self.scaling) if self.p is None else (self.B * self.p.tanh(), 1.0)
        return sparse_low_rank(x, self.A, B, self.v, self.support, self.bias, s)

    @torch.no_grad()
    def dense_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix s B A + S (m, n), computed in `dtype`."""
        s = self.scaling if self.p is None else self.p.to(dtype).tanh()
        return dense(self.A.to(dtype), self.B.to(dtype), self.v.to(dtype), self.support, s)
