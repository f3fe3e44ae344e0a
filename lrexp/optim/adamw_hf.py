"""The AdamW that transformers once shipped: published numbers of that time, GaLore's among them, need it.

    W <- W - lr c M / (sqrt(V) + eps),   c = sqrt(1 - beta2^t) / (1 - beta1^t), or 1 without correct_bias
    W <- W - lr weight_decay W

Unlike torch's AdamW it adds eps to the uncorrected root, so that eps acts as eps / sqrt(1 - beta2^t), and decays after
the move.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrexp.optim.one_by_one import OneByOne
from lrexp.optim.settings import AdamSettings


@dataclass(frozen=True)
class AdamWHFSettings(AdamSettings):
    """Settings of `adamw_hf`, by transformers' names and with its defaults."""

    eps: float = 1e-6
    correct_bias: bool = True


class AdamWHF(OneByOne):
    """State by parameter: `step` (int), `exp_avg` and `exp_avg_sq` in the parameter's precision."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
        }
        super().__init__(params, defaults)

    def move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """One step of the rule above."""
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        M, V, t = state["exp_avg"], state["exp_avg_sq"], state["step"]
        beta1, beta2 = group["betas"]
        M.mul_(beta1).add_(gradient, alpha=1 - beta1)
        V.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        correction = math.sqrt(1 - beta2**t) / (1 - beta1**t) if group["correct_bias"] else 1.0
        parameter.addcdiv_(M, V.sqrt().add_(group["eps"]), value=-group["lr"] * correction)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
