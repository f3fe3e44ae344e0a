"""A penalty that keeps the factors of LoRA layers orthonormal: the rows of every A and the columns of every B.

Its value R is the mean over all A and B of ||A A^T - I||_F and ||B^T B - I||_F.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.orthonormality import Penalty, gradients, mean_distance

STD = 0.02  # of AdaLoRA's A and B at the start


def penalty_value(layers: Iterable[LoRALayer], penalty: Penalty = "norm") -> Tensor:
    """R of these layers, a scalar."""
    return mean_distance(_stacks(layers), penalty)


@torch.no_grad()
def add_penalty(
    layers: Iterable[LoRALayer], weight: Callable[[nn.Parameter], float], penalty: Penalty = "norm"
) -> None:
    """Adds the gradient of R to those of all factors, times the weight of each."""
    layers = list(layers)
    factors = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
    for index, (factor, change) in enumerate(zip(factors, gradients(_stacks(layers), penalty), strict=True)):
        change = (change.mT if index % 2 else change).reshape(factor.shape)
        if factor.grad is None:
            factor.grad = torch.zeros_like(factor)
        factor.grad.add_(change, alpha=weight(factor))


def _stacks(layers: Iterable[LoRALayer]) -> list[Tensor]:
    """A and B^T of each layer in turn, (blocks, rank, n) and (blocks, rank, m)."""
    pairs = [layer.factors() for layer in layers]
    return [stack.detach() for A, B in pairs for stack in (A, B.mT)]
