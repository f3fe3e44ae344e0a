"""The LDU factorisation of a matrix with partial pivoting, its permutation as an index.

float64 stays float64; everything else is factorised in float32 or better and returned in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LDU(NamedTuple):
    """W[order] = L diag(D) U1 for an (m, n) matrix W, k = min(m, n); `R` is diag(D) U1, whole with a pivot of 0 too.

    L and U1 have ones on their diagonals. |L| is at most 1; a small pivot makes a row of U1 large.
    """

    order: Tensor  # (m,) int64
    L: Tensor  # (m, k), lower triangular
    D: Tensor  # (k,), the pivots
    R: Tensor  # (k, n), upper triangular


class Terms(NamedTuple):
    """B diag(d) A: the first r terms of a matrix (m, n)."""

    B: Tensor  # (m, r)
    d: Tensor  # (r,)
    A: Tensor  # (r, n)


def ldu(matrix: Tensor) -> LDU:
    """The factorisation of an (m, n) matrix. Raises ValueError for NaN or infinity."""
    if not torch.isfinite(matrix).all():
        raise ValueError("the matrix has NaN or infinite entries: it has no LDU factorisation")
    matrix = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    m, n = matrix.shape
    k = min(m, n)
    packed, swaps, _ = torch.linalg.lu_factor_ex(matrix)  # a pivot of 0 is reported there, and no error here
    order = list(range(m))
    for i, j in enumerate(swaps.tolist()):  # row i was exchanged with row j, counted from 1
        order[i], order[j - 1] = order[j - 1], order[i]
    L = packed[:, :k].tril(-1)
    L.diagonal().fill_(1)
    return LDU(torch.tensor(order, device=matrix.device), L, packed.diagonal().clone(), packed[:k].triu())


def pivoted(found: LDU, r: int) -> Terms:
    """The first r terms as published: B = P L_r, d = the pivots, A = the rows of U1.

    Raises ValueError where a pivot is 0, or so small that its row of U1 would be nothing but large.
    """
    D, R = found.D[:r], found.R[:r]
    small = D.abs() <= torch.finfo(D.dtype).eps * R.abs().amax(1)
    if small.any():
        first = int(small.nonzero()[0])
        raise ValueError(f"pivot {first} is {float(D[first]):g}, too small to divide by")
    return Terms(_unpermuted(found, r), D, R / D[:, None])


def normalised(found: LDU, r: int) -> Terms:
    """The first r terms with columns of B and rows of A of length 1, their lengths in d; a row of zeros stays one."""
    R = found.R[:r]
    columns, rows = torch.linalg.vector_norm(found.L[:, :r], dim=0), torch.linalg.vector_norm(R, dim=1)
    A = torch.where(rows[:, None] > 0, R / rows[:, None], 0)
    return Terms(_unpermuted(found, r) / columns, columns * rows, A)


def _unpermuted(found: LDU, r: int) -> Tensor:
    """P L_r (m, r): the rows of L where those of the matrix are."""
    return torch.empty_like(found.L[:, :r]).index_copy_(0, found.order, found.L[:, :r].contiguous())
