"""LoLDU: the pivots of each weight's LDU factorisation are trained between its frozen triangular factors.

Shi et al. 2024, arXiv 2410.13618.

    W = P L diag(D) U      F = P L_r (m, r), U_r (r, n)      W_res = W - s F diag(z_0) U_r      s = alpha / r
    W_eff = W_res + s F diag(z) U_r      y = x W_eff^T + b

Trained is z, r numbers a layer. We keep W whole and train the change of z: the same function and gradients, d loss /
d z_i = s f_i^T G u_i with G the gradient of the weight, never formed; the permutation is an index. The code builds P
(m, m) and W_eff densely at each access, and with its defaults (alpha 1, r 768) s is 1/768; here s = 1 unless
`lora_alpha` says otherwise. An embedding is factorised as its table, a convolution as (out, in kh kw).

`init_method` is where z starts. The code keeps the function with lu, uniform, normal and constant, whose z_0 is z
itself, and not with zeros, ones, s_uniform and s_normal, whose z_0 is D_r: `preserve` says so explicitly. Where the
function is preserved, the change of z counts alone, and its start has no influence.

Small pivots make rows of U huge, and a pivot of 0 makes them infinite. In the embedded model a step of z moves the
weight by 1 to 60 times its size, from term to term of one layer. With `normalise` the columns of F and the rows of U_r
have length 1 and z takes their lengths: the same products, one rate for all z, and no division by a pivot. The first r
pivots are those of the first r columns, not the r largest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lrexp.layers.lora_embedding import LoRAEmbedding
from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.ldu import ldu, normalised, pivoted
from lrexp.methods.adapters.frozen_factors import Factors, FrozenFactors, FrozenFactorsHyperparameters
from lrexp.methods.base import Context

Start = Literal["lu", "uniform", "normal", "constant", "zeros", "ones", "s_uniform", "s_normal"]


@dataclass(frozen=True)
class LoLDUHyperparameters(FrozenFactorsHyperparameters):
    """LoLDU's settings."""

    lora_alpha: float | None = None  # alpha; null: equal to r; the code: 1 or 8
    init_method: Start = "lu"  # where z starts
    preserve: bool = True  # the function at the start is the base's, whatever init_method; the code: see above
    normalise: bool = True  # columns of F and rows of U_r of length 1; the code: no

    def __post_init__(self) -> None:
        """Raises ValueError for an alpha out of range."""
        super().__post_init__()
        if self.lora_alpha is not None and not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha is {self.lora_alpha}: it is a positive number")


class LoLDU(FrozenFactors):
    """A = U_r, B = P L_r."""

    Hyperparameters = LoLDUHyperparameters
    may_differ = ("lr_multipliers", "init_method", "preserve", "normalise")

    def factors(self, layer: LoRALayer, W: Tensor, name: str, context: Context) -> Factors:
        """The first r terms, and how far from them z starts."""
        values = self.hyperparameters
        is_table = isinstance(layer, LoRAEmbedding)
        found = ldu(W.mT if is_table else W)
        try:
            B, d, A = (normalised if values.normalise else pivoted)(found, layer.rank)
        except ValueError as error:
            raise ValueError(f"{error}: set method.normalise=true") from error
        z = d if values.preserve else self.start(d, values.init_method, context.generator(f"init:{name}"))
        return Factors(B.mT, A.mT, z - d) if is_table else Factors(A, B, z - d)

    def start(self, d: Tensor, kind: Start, generator: torch.Generator) -> Tensor:
        """Where z starts; `d` is the diagonal of the factorisation."""
        mean, drawn = d.mean(), torch.empty(d.shape, dtype=d.dtype)
        if kind == "uniform":
            return drawn.uniform_(-0.5, 0.5, generator=generator).to(d.device) * mean.abs()
        if kind == "normal":
            return drawn.normal_(generator=generator).to(d.device) * d.std(correction=min(1, len(d) - 1)) + mean
        if kind == "s_uniform":
            return drawn.uniform_(-1, 1, generator=generator).to(d.device)
        if kind == "s_normal":
            return drawn.normal_(generator=generator).to(d.device)
        others = {"lu": d, "constant": mean.expand(d.shape), "zeros": torch.zeros_like(d), "ones": torch.ones_like(d)}
        return others[kind].clone()

    def alphas(self, model: nn.Module, targets: list[str], ranks: Mapping[str, int]) -> dict[str, float]:
        """The alpha that is set, or equal to the rank."""
        return {name: self.hyperparameters.lora_alpha or float(r) for name, r in ranks.items()}
