"""Incremental principal components as EVA's authors compute them (Ross et al. 2008, as in scikit-learn and PEFT).

First batch: centre, SVD. Later ones: the SVD of [diag(S) V; X - its mean; a row for the shift of the mean], of which
k triplets are kept. What a batch loses beyond these never comes back: over several batches this is close to the
components of all rows, and exact only where k is their rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrexp.linalg.svd import Triplets


class IncrementalPCA:
    """The state after each batch: `components` (k, n), `singular_values`, `explained_variance_ratio`, mean, variance.

    `decompose(matrix, k)` gives the leading triplets of a stack, with canonical signs. The mean is float64 and, as in
    the source, widens the stack from the second batch on.
    """

    def __init__(self, k: int, decompose: Callable[[Tensor, int], Triplets]) -> None:
        self.k = k
        self.decompose = decompose
        self.seen = 0
        self.components: Tensor | None = None
        self.cosines: Tensor | None = None  # (k,), of each component with itself one batch before

    def update(self, X: Tensor) -> None:
        """Takes rows (T, n), float32 or better; a batch of fewer than k is passed over."""
        T = len(X)
        if self.k > T:
            return
        total = self.seen + T
        batch_mean = X.mean(0, dtype=torch.float64)
        batch_variance = (X - batch_mean).square().mean(0)
        before = self.components
        if before is None:
            mean, variance = batch_mean, batch_variance
            stack = (X - mean).to(X.dtype)
        else:
            own = X.mean(0)
            shift = self.mean - own
            weight = self.seen / total * T
            mean = (self.mean * self.seen + batch_mean * T) / total
            between = (self.mean - batch_mean).square() * (weight / total)
            variance = (self.variance * self.seen + batch_variance * T) / total + between
            stack = torch.cat([(self.singular_values[:, None] * before).double(), X - own, weight**0.5 * shift[None]])
        triplets = self.decompose(stack, self.k)
        self.components, self.singular_values = triplets.Vh, triplets.S
        self.mean, self.variance, self.seen = mean, variance, total
        self.explained_variance_ratio = triplets.S.double().square() / (variance.sum() * total)
        if before is not None:
            self.cosines = torch.nn.functional.cosine_similarity(triplets.Vh, before)

    def is_steady(self, r: int, tau: float) -> bool:
        """Whether each of the first r components kept a cosine of `tau` with itself over the last batch."""
        if r == 0:
            return self.components is not None
        return self.cosines is not None and bool((self.cosines[:r] >= tau).all())

    def finish(self) -> None:
        """Nothing is left to do."""
