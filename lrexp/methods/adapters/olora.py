"""OLoRA: LoRA whose factors start from a QR factorisation of the weight, with the remainder frozen.

Büyükakyüz 2024, arXiv 2406.01775.

    W = Q R      B0 = Q[:, :r]      A0 = R[:r] = B0^T W      W_res = W - s B0 A0
    y = x W_res^T + b + s (x A^T) B^T

A and B are trained, W_res and b frozen. A0 and B0 are not divided by s, as in the authors' code: the model's output is
kept, but with s other than 1 the adapter holds s times the component, and W_res the rest, -(s - 1) times it. B0 spans
the first r columns of W, so it depends on the order of the inputs and is no principal subspace. Only these r columns
are factorised, where a QR of all W costs min(m, n) / r times as much; signs are those of a positive diagonal of R.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrexp.layers.adapted import has_values
from lrexp.layers.lora_layer import LoRALayer
from lrexp.methods.adapters.lora import LoRA, LowRankHyperparameters
from lrexp.methods.base import Context, Decisions
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class OLoRAHyperparameters(LowRankHyperparameters):
    """OLoRA's settings; dropout would drop part of the pre-trained function, so there is none."""

    lora_alpha: float = 8.0  # alpha; paper: 16 with r 32 or 64


class OLoRA(LoRA):
    """LoRA with another start."""

    Hyperparameters = OLoRAHyperparameters
    may_differ = ("lr_multipliers",)

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """Sets A0 and B0 from the weight's first columns and takes their product out of the base."""
        if has_values(layer.lora_A):
            try:
                pairs = [start(W, layer.rank) for W in layer.matrices()]
            except ValueError as error:
                raise InputError(f"{name}: {error}") from error
            layer.set_factors(*(torch.stack(factors) for factors in zip(*pairs, strict=True)))
        layer.take_from_base()


def start(W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A0 (r, n) and B0 (m, r), orthonormal columns that span the first r of W (m, n); float32 or better.

    Raises ValueError for a weight with NaN or infinity.
    """
    if not torch.isfinite(W).all():
        raise ValueError("the weight has NaN or infinity")
    W = W.to(torch.promote_types(W.dtype, torch.float32))
    Q, R = torch.linalg.qr(W[:, :r])  # (m, r), (r, r)
    B = Q * torch.where(R.diagonal() < 0, -1, 1)
    return B.mT @ W, B
