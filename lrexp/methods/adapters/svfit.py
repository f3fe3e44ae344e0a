"""SVFit: the top singular values of each weight are trained between their frozen singular vectors.

Sun et al. 2024, arXiv 2409.05926.

    W = U_r diag(sigma_0) V_r^T + W_e      y = x W_e^T + b + U_r (sigma (V_r^T x))

Trained is sigma, r numbers a layer; W_e and the vectors are frozen. Sigma may change its sign and its order. No public
code of the authors is known to us. We keep W whole and train the change of sigma: the same function and the same
gradients, d loss / d sigma_i = sum over tokens of (u_i g)(v_i x), without a residual and its rounding. Weight decay on
sigma would pull the trained part to zero; there is none. With r = null all singular values are trained, on a square
weight 16 times fewer numbers than LoRA's at rank 8; the two products then cost as much as two weights.

With `param` multiplicative sigma = sigma_0 (1 + delta) and delta is trained: the moves of an adaptive optimizer are
then in proportion to the singular values. Preparation: one SVD a layer, one layer at a time, kept on disk by the
weight's hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lrexp.layers.decomposition import leading_triplets
from lrexp.layers.lora_layer import LoRALayer
from lrexp.methods.adapters.frozen_factors import Factors, FrozenFactors, FrozenFactorsHyperparameters
from lrexp.methods.base import Context

OVERSAMPLING = 8  # dimensions of the randomized SVD beyond r, dropped at its end


@dataclass(frozen=True)
class SVFitHyperparameters(FrozenFactorsHyperparameters):
    """SVFit's settings."""

    param: Literal["additive", "multiplicative"] = "additive"  # trained: sigma - sigma_0, or its share
    svd: Literal["exact", "randomized"] = "exact"  # decomposition of the weights
    svd_niter: int = 4  # subspace iterations of the randomized SVD

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 0."""
        super().__post_init__()
        if self.svd_niter < 0:
            raise ValueError(f"svd_niter is {self.svd_niter}: it is at least 0")


class SVFit(FrozenFactors):
    """A = V_r^T, B = U_r."""

    Hyperparameters = SVFitHyperparameters
    may_differ = ("lr_multipliers", "param", "svd", "svd_niter")

    def factors(self, layer: LoRALayer, W: Tensor, name: str, context: Context) -> Factors:
        """The leading singular vectors; the left ones times sigma_0 where its share is trained."""
        values = self.hyperparameters
        draw = None if values.svd == "exact" else partial(self.omega, name=name, context=context)
        U, S, Vh = leading_triplets(W, layer.rank, values.svd_niter, OVERSAMPLING, draw, context.cache)
        return Factors(Vh, U * S if values.param == "multiplicative" else U, torch.zeros_like(S))

    def omega(self, shape: tuple[int, int], name: str, context: Context) -> Tensor:
        """The Gaussian test matrix of a randomized SVD."""
        return torch.randn(shape, generator=context.generator(f"omega:{name}"))
