"""Adafactor: the second moment of a matrix by the means of its rows and columns, m + n numbers instead of m n.

Shazeer & Stern 2018, arXiv 1804.04235, algorithm 4, as in transformers.

    beta2 = 1 - t^decay_rate          U = G^2 + eps_1
    row <- beta2 row + (1 - beta2) mean_j U_ij           col likewise over i
    X = G / sqrt(row col / mean(row))                    X <- X / max(1, RMS(X) / clip_threshold)
    rate = lr, times max(eps_2, RMS(W)) with scale_parameter
    M <- beta1 M + (1 - beta1) rate X  (beta1 null: M = rate X)       W <- (1 - rate weight_decay) W - M

The rate is the run's: relative steps and their warm-up are left to the schedule (lr_scheduler_type=inverse_sqrt).
Vectors have a whole second moment; of a tensor of more than two dimensions the last two are factored. Means are kept
in float32 or better, M in the weight's precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrexp.optim.one_by_one import OneByOne
from lrexp.optim.proxy import weight_of
from lrexp.optim.settings import check_not_negative


@dataclass(frozen=True)
class AdafactorSettings:
    """Settings of `adafactor`, by transformers' names."""

    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    beta1: float | None = None
    weight_decay: float = 0.0
    scale_parameter: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        if min(self.eps) < 0:
            raise ValueError(f"eps is {list(self.eps)}: both are at least 0")
        if self.clip_threshold <= 0:
            raise ValueError(f"clip_threshold is {self.clip_threshold}: it is above 0")
        if self.decay_rate >= 0:
            raise ValueError(f"decay_rate is {self.decay_rate}: it is below 0")
        if self.beta1 is not None and not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 is {self.beta1}: it lies in [0, 1), or is null")
        check_not_negative("weight_decay", self.weight_decay)


class Adafactor(OneByOne):
    """State by parameter: `step` (int), `rate` (what the last step was scaled by), the means, `exp_avg` with beta1."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
        }
        super().__init__(params, defaults)

    def move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """One step of the rule above."""
        gradient = gradient.to(torch.promote_types(parameter.dtype, torch.float32))
        state["step"] = state.get("step", 0) + 1
        scale = max(group["eps"][1], float(_rms(weight_of(parameter)))) if group["scale_parameter"] else 1.0
        state["rate"] = group["lr"] * scale
        beta2 = 1 - state["step"] ** group["decay_rate"]
        update = gradient * _root(gradient.square().add_(group["eps"][0]), beta2, state)
        update.div_((_rms(update) / group["clip_threshold"]).clamp_min_(1.0)).mul_(state["rate"])
        if group["beta1"] is not None:
            if "exp_avg" not in state:
                state["exp_avg"] = torch.zeros_like(parameter)
            update = state["exp_avg"].mul_(group["beta1"]).add_(update, alpha=1 - group["beta1"])
        if group["weight_decay"]:
            parameter.mul_(1 - state["rate"] * group["weight_decay"])
        parameter.sub_(update)


def _rms(tensor: Tensor) -> Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, dtype=wide) / tensor.numel() ** 0.5


def _root(square: Tensor, beta2: float, state: dict[str, Any]) -> Tensor:
    """The inverse root of the second moment, whose state takes in this square."""
    if square.ndim < 2:
        return _averaged(state, "exp_avg_sq", square, beta2).rsqrt()
    row = _averaged(state, "exp_avg_sq_row", square.mean(dim=-1), beta2)  # (..., m)
    column = _averaged(state, "exp_avg_sq_col", square.mean(dim=-2), beta2)  # (..., n)
    return (row / row.mean(dim=-1, keepdim=True)).rsqrt_()[..., None] * column.rsqrt()[..., None, :]


def _averaged(state: dict[str, Any], name: str, value: Tensor, beta2: float) -> Tensor:
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].mul_(beta2).add_(value, alpha=1 - beta2)
