"""The leading singular triplets of a sum of products G = sum_t g_t x_t^T (m, n), a gradient of a weight, say.

Two ways to hold the sum: whole, or as a product of a bounded number of rows that is cut back to its leading triplets
when it grows too long (an incremental SVD, as in incremental PCA). A linear sketch of G (Gaussian test matrices on both
sides, read once) would be cheaper still, but loses the trailing directions of a gradient's flat spectrum: in an encoder
384 wide, with four times as many columns as triplets wanted, a fifth to a half of their space, where the cut product of
as many rows loses less than a hundredth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrexp.linalg.svd import Triplets, canonical_signs, exact_svd, randomized_svd

LENGTH = 4  # rows held, times the rank they are cut back to
_CUT_NITER = 2  # subspace iterations of a cut


class DenseSum:
    """The sum itself, (m, n)."""

    def __init__(self, m: int, n: int) -> None:
        self.shape = (m, n)
        self.matrix = torch.zeros(m, n)

    def add(self, g: Tensor, x: Tensor) -> None:
        """Adds the products of rows g (T, m) and x (T, n)."""
        self.matrix = self.matrix.to(x).addmm_(g.mT, x)

    def triplets(self, r: int, niter: int, omega: Tensor) -> Triplets:
        """The r leading triplets, by a randomized SVD with `omega` (min(m, n), q). Raises ValueError for NaN."""
        return randomized_svd(self.matrix, r, niter, omega.shape[1] - r, omega.to(self.matrix))

    def norm(self) -> float:
        """Frobenius norm."""
        return float(torch.linalg.matrix_norm(self.matrix))


class CutProduct:
    """Rows g and x whose products are the sum, up to what was cut off; `omega` (min(m, n), p) finds the p kept."""

    def __init__(self, m: int, n: int, omega: Tensor) -> None:
        self.shape = (m, n)
        self.g, self.x = torch.zeros(0, m), torch.zeros(0, n)
        self.omega = omega

    def add(self, g: Tensor, x: Tensor) -> None:
        """Adds the products of rows g (T, m) and x (T, n)."""
        self.g, self.x = torch.cat([self.g.to(g), g]), torch.cat([self.x.to(x), x])
        p = self.omega.shape[1]
        if len(self.g) > LENGTH * p:
            U, S, Vh = product_svd(self.g, self.x, p, _CUT_NITER, self.omega)
            self.g, self.x = (U * S).mT.contiguous(), Vh

    def triplets(self, r: int, niter: int, omega: Tensor) -> Triplets:
        """The r leading triplets, by a randomized SVD with `omega` (min(m, n), q). Raises ValueError for NaN."""
        return product_svd(self.g, self.x, r, niter, omega)

    def norm(self) -> float:
        """Frobenius norm of what is held."""
        return float(((self.g @ self.g.mT) * (self.x @ self.x.mT)).sum().clamp_min(0).sqrt())


def running_sum(m: int, n: int, omega: Tensor) -> DenseSum | CutProduct:
    """What holds the sum in less memory; `omega` (min(m, n), p), where its p leading triplets at least are kept."""
    return DenseSum(m, n) if m * n <= LENGTH * omega.shape[1] * (m + n) else CutProduct(m, n, omega)


def product_svd(g: Tensor, x: Tensor, r: int, niter: int, omega: Tensor) -> Triplets:
    """The r leading triplets of g^T x, rows g (T, m) and x (T, n), which is never built.

    `omega` (min(m, n), q), q >= r, is the Gaussian test matrix; see `lrexp.linalg.svd.randomized_svd`.
    """
    is_tall = g.shape[1] >= x.shape[1]
    long, short = (g, x) if is_tall else (x, g)  # the sum's tall side first
    Q = torch.linalg.qr(long.mT @ (short @ omega.to(x))).Q
    for _ in range(niter):
        P = torch.linalg.qr(short.mT @ (long @ Q)).Q
        Q = torch.linalg.qr(long.mT @ (short @ P)).Q
    U, S, Vh = exact_svd((long @ Q).mT @ short, r)  # of (q, T) @ (T, min(m, n))
    U = Q @ U
    return canonical_signs(Triplets(U, S, Vh) if is_tall else Triplets(Vh.mT, S, U.mT))
