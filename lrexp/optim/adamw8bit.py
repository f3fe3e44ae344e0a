"""AdamW whose moments are held in 8 bits, block by block.

Dettmers et al. 2022, arXiv 2110.02861. Between the steps M and V are codes into a map of 256 values and one scale a
block: about 2.03 bytes a parameter in place of 8. A step takes them out, moves by the exact values and puts them back.
As in bitsandbytes the decay comes after the move, M has the signed map and V the unsigned one, and small tensors keep
float32 moments. All is torch: on CUDA a fused kernel would be faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrexp.linalg.blockwise import Blockwise, dequantise, quantise
from lrexp.optim.one_by_one import OneByOne
from lrexp.optim.settings import AdamSettings, check_not_negative

_MOMENTS = {"exp_avg": True, "exp_avg_sq": False}  # the moments, and whether they have a sign


@dataclass(frozen=True)
class AdamW8bitSettings(AdamSettings):
    """Settings of `adamw8bit`."""

    min_8bit_size: int = 4096
    block_size: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        super().__post_init__()
        check_not_negative("min_8bit_size", self.min_8bit_size)
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}: it is at least 1")


class AdamW8bit(OneByOne):
    """State by parameter: `step` (int), and of each moment `<name>_codes` and `<name>_absmax`, or `<name>` whole."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        min_8bit_size: int = 4096,
        block_size: int = 256,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "min_8bit_size": min_8bit_size,
            "block_size": block_size,
        }
        super().__init__(params, defaults)

    def move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """One step: the moments are taken out, moved by and put back."""
        gradient = gradient.float()
        beta1, beta2 = group["betas"]
        t = state["step"] = state.get("step", 0) + 1
        M, V = (_taken_out(name, state, gradient, group["block_size"]) for name in _MOMENTS)
        M.mul_(beta1).add_(gradient, alpha=1 - beta1)
        V.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = V.sqrt().div_(math.sqrt(1 - beta2**t)).add_(group["eps"])
        parameter.sub_(M.div(root).mul_(group["lr"] / (1 - beta1**t)))
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        if parameter.numel() < group["min_8bit_size"]:
            state |= {"exp_avg": M, "exp_avg_sq": V}
            return
        for (name, is_signed), moment in zip(_MOMENTS.items(), (M, V), strict=True):
            held = quantise(moment, is_signed, group["block_size"])
            state |= {f"{name}_codes": held.codes, f"{name}_absmax": held.absmax}


def _taken_out(name: str, state: dict[str, Any], gradient: Tensor, block: int) -> Tensor:
    """A moment in float32: zero before the first step."""
    if name in state:
        return state[name]
    if f"{name}_codes" in state:
        held = Blockwise(state[f"{name}_codes"], state[f"{name}_absmax"])
        return dequantise(held, _MOMENTS[name], block)
    return torch.zeros_like(gradient)
