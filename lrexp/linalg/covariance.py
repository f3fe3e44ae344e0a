"""Principal components of rows that come in batches, from a running covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from lrexp.linalg.eigen import leading_eigenpairs
from lrexp.linalg.svd import canonical_rows, exact_svd

KEPT = 4  # directions of a covariance that is cut, times the components wanted
WHOLE = 4  # a covariance is held whole up to so many columns for each of these
_ROUNDS = 3  # subspace iterations of a cut
_TRACKING, _FINAL = 1e-2, 1e-5  # relative residuals of eigenvectors: on the way, and at the end (float32)


class RunningCovariance:
    """Sums over rows of n numbers, whose k leading principal directions are `components` (k, n).

    `omega` (n, min(n, KEPT k)) is Gaussian. Where n is at most WHOLE times its columns the sum of products is held as
    it is: exact, whatever the order of the batches. A wider one is cut after each batch to as many leading directions
    as `omega` has columns: far less memory, and of the space of the k wanted a thousandth is lost, where incremental
    PCA, which keeps k, loses a tenth (inputs of an encoder's layers, k 16). Rows are shifted by the first batch's mean,
    so that float32 sums do not cancel. After each batch the components are good enough for a look at whether they still
    move; `finish` brings them to working precision.
    """

    def __init__(self, k: int, omega: Tensor) -> None:
        self.k = k
        self.seen = 0
        self.components: Tensor | None = None
        self.is_whole = omega.shape[0] <= WHOLE * omega.shape[1]
        self._omega = omega
        self._start = omega[:, : 2 * k]  # where eigenvectors are sought
        self._previous: Tensor | None = None

    def update(self, X: Tensor) -> None:
        """Adds rows (T, n), float32 or better, of any number; overwrites them, since batches are large."""
        if not len(X):
            return
        if not self.seen:
            n = X.shape[1]
            self._shift, self._sum, self._square = X.mean(0), X.new_zeros(n), X.new_zeros(())
            self._held = X.new_zeros(n if self.is_whole else 0, n)
            self._omega, self._start = self._omega.to(X), self._start.to(X)
        X.sub_(self._shift)
        self._sum += X.sum(0)
        self._square += torch.linalg.matrix_norm(X).square()
        self.seen += len(X)
        if self.is_whole:
            self._held.addmm_(X.mT, X)  # (n, T) @ (T, n)
        else:
            self._held = self._cut(X)
        self._previous = self.components
        self._look(_TRACKING)

    def is_steady(self, r: int, tau: float) -> bool:
        """Whether the last batch left at least `tau` of the space of the first r components where it was.

        |V V_before^T|^2 / r >= tau, which, unlike cosines of single components, does not mind two that change places.
        """
        if r == 0:
            return self.components is not None
        if self.components is None or self._previous is None:
            return False
        return float((self.components[:r] @ self._previous[:r].mT).square().sum()) >= tau * r

    def finish(self) -> None:
        """Brings components and variances to working precision."""
        self._look(_FINAL)

    def _cut(self, X: Tensor) -> Tensor:
        """(p, n) rows that sum to nearly what is held and X do: leading right singular vectors, scaled."""
        Q, parts = self._omega, (self._held, X)
        if len(self._held) + len(X) <= Q.shape[1]:
            return torch.cat(parts)
        for _ in range(_ROUNDS):
            image = sum((rows.mT @ (rows @ Q) for rows in parts), Q.new_zeros(()))  # (n, T) @ (T, n) @ (n, p)
            Q = torch.linalg.qr(image).Q
        _, S, Vh = exact_svd(torch.cat([rows @ Q for rows in parts]))
        return S[:, None] * (Vh @ Q.mT)

    def _look(self, tolerance: float) -> None:
        values, vectors = leading_eigenpairs(self._times, self._start, self.k, tolerance)
        variance = self._square - self._sum.square().sum() / self.seen
        self.components = canonical_rows(vectors)
        self.singular_values = values.sqrt()  # of the centred rows
        self.explained_variance_ratio = values / variance.clamp_min(torch.finfo(values.dtype).tiny)
        self._start = torch.cat([vectors.mT, self._start[:, self.k :]], dim=1)

    def _times(self, Q: Tensor) -> Tensor:
        """The covariance of the centred rows, times their number, times the columns Q."""
        products = self._held @ Q if self.is_whole else self._held.mT @ (self._held @ Q)
        return products - self._sum[:, None] * ((self._sum / self.seen) @ Q)
