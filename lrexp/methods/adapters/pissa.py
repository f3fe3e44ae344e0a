"""PiSSA: LoRA whose factors start as the leading singular triplets of the weight, with the remainder frozen.

Meng, Wang, Zhang 2024, arXiv 2404.02948.

    W = U S V^T      A0 = diag(sqrt(S_r / s)) V_r^T      B0 = U_r diag(sqrt(S_r / s))      W_res = W - s B0 A0
    y = x W_res^T + b + s (x A^T) B^T

A and B are trained, W_res and b frozen. Dividing by s is the code's, not the paper's (alpha = r there, s = 1):
without it the model's output would change at the start. Dropout has to be 0, since it would drop part of the
pre-trained function, so there is no such field. W_res is what the factors leave once they are rounded to their own
precision: with bf16 factors the model starts closer to the original than by the authors' order (remainder first). A0
and B0 stay with the layer: the trained change of the original weight is s (B A - B0 A0), a LoRA of rank 2 r.
Preparation: one SVD a layer, one layer at a time, kept on disk by the weight's hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lrexp.layers.adapted import has_values
from lrexp.layers.decomposition import leading_triplets
from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.svd import Triplets
from lrexp.methods.adapters.lora import LoRA, LowRankHyperparameters
from lrexp.methods.base import Context, Decisions
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class PiSSAHyperparameters(LowRankHyperparameters):
    """PiSSA's settings; alpha = r in the paper."""

    lora_alpha: float = 8.0  # alpha; paper: equal to r
    svd: Literal["exact", "randomized"] = "exact"  # paper: randomized ("fast SVD")
    svd_niter: int = 4  # subspace iterations of the randomized SVD; the authors' scripts: 4 and 16
    svd_oversampling: int = 8  # dimensions beyond r, dropped at the end; the authors: 0, less accurate

    def __post_init__(self) -> None:
        """Raises ValueError for counts below 0."""
        super().__post_init__()
        for where, count in (("svd_niter", self.svd_niter), ("svd_oversampling", self.svd_oversampling)):
            if count < 0:
                raise ValueError(f"{where} is {count}: it is at least 0")


class PiSSA(LoRA):
    """LoRA with another start."""

    Hyperparameters = PiSSAHyperparameters
    may_differ = ("lr_multipliers", "svd", "svd_niter", "svd_oversampling")

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """Sets A0 and B0 from the weight's leading triplets and takes their product out of the base."""
        triplets = [self.triplets(W, layer.rank, f"{name}:{j}", context) for j, W in enumerate(layer.matrices())]
        roots = [(S / layer.scaling).sqrt() for _, S, _ in triplets]
        if has_values(layer.lora_A):
            A = torch.stack([root[:, None] * Vh for root, (_, _, Vh) in zip(roots, triplets, strict=True)])
            B = torch.stack([U * root for root, (U, _, _) in zip(roots, triplets, strict=True)])
            layer.set_factors(A, B)
        layer.take_from_base()

    def triplets(self, W: Tensor, r: int, name: str, context: Context) -> Triplets:
        """The r leading triplets of an (m, n) weight by the chosen algorithm."""
        values = self.hyperparameters
        draw = None if values.svd == "exact" else partial(self.omega, name=name, context=context)
        try:
            return leading_triplets(W, r, values.svd_niter, values.svd_oversampling, draw, context.cache)
        except ValueError as error:
            raise InputError(f"{name.rpartition(':')[0]}: {error}") from error

    def omega(self, shape: tuple[int, int], name: str, context: Context) -> Tensor:
        """The Gaussian test matrix of a randomized SVD."""
        return torch.randn(shape, generator=context.generator(f"omega:{name}"))
