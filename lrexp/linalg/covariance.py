"""Principal components of rows that come in batches, from a running covariance: exact, whatever the batches' order."""

from __future__ import annotations

import torch
from torch import Tensor

from lrexp.linalg.eigen import leading_eigenpairs
from lrexp.linalg.svd import canonical_rows

_TRACKING, _FINAL = 1e-2, 1e-5  # relative residuals of eigenvectors: on the way, and at the end (float32)


class RunningCovariance:
    """Sums of the rows and of their products; `start` (n, p), p >= k, is where the first eigenvectors are sought.

    After each batch `components` (k, n) are the leading directions of the centred rows so far, well enough for a look
    at whether they still move; `finish` makes them exact. Rows are shifted by the first batch's mean, so that float32
    sums do not cancel.
    """

    def __init__(self, k: int, start: Tensor) -> None:
        self.k = k
        self.seen = 0
        self.components: Tensor | None = None
        self._start = start
        self._previous: Tensor | None = None

    def update(self, X: Tensor) -> None:
        """Adds rows (T, n), float32 or better, of any number."""
        if not len(X):
            return
        if not self.seen:
            n = X.shape[1]
            self._shift, self._sum = X.mean(0), X.new_zeros(n)
            self._products = X.new_zeros(n, n)
            self._start = self._start.to(X)
        X = X - self._shift
        self._products.addmm_(X.mT, X)  # (n, T) @ (T, n)
        self._sum += X.sum(0)
        self.seen += len(X)
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

    def _look(self, tolerance: float) -> None:
        values, vectors = leading_eigenpairs(self._times, self._start, self.k, tolerance)
        variance = self._products.trace() - self._sum.square().sum() / self.seen
        self.components = canonical_rows(vectors)
        self.singular_values = values.sqrt()  # of the centred rows
        self.explained_variance_ratio = values / variance.clamp_min(torch.finfo(values.dtype).tiny)
        rest = self._start[:, self.k :]
        self._start = torch.cat([vectors.mT, rest], dim=1)

    def _times(self, Q: Tensor) -> Tensor:
        """The covariance of the centred rows, times their number, times the columns Q."""
        return self._products @ Q - self._sum[:, None] * ((self._sum / self.seen) @ Q)
