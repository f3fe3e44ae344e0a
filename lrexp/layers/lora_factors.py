"""LoRA on both factors of a factorised layer: it is trained, and merged again, without a change of rank.

    A' = A + s D_A C_A     B' = B + s D_B C_B     C_A (r', n), D_A (r, r'), C_B (r', r), D_B (m, r')

SVD-LLM (arXiv 2403.07378), section 3.3, trains the first and then the second; here they are trained together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import replace
from lrexp.layers.factorised import FactorisedLinear
from lrexp.layers.lora import lora_layer
from lrexp.layers.lora_layer import LoRALayer, LoRASettings


class LoRAFactors(nn.Module):
    """A frozen factorised layer and a LoRA on each factor, which is a linear layer with the factor as its weight.

    The change is zero until the LoRA layers `inner` (on A) and `outer` (on B) are set. Raises InputError, with the
    layer's name, for a rank above what a factor can have.
    """

    def __init__(self, name: str, layer: FactorisedLinear, settings: LoRASettings) -> None:
        super().__init__()
        self.layer = layer
        self.inner: LoRALayer = lora_layer(f"{name}.A", _linear(layer.A, None), settings)
        self.outer: LoRALayer = lora_layer(f"{name}.B", _linear(layer.B, layer.bias), settings)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to (..., m), through the rank of the layer."""
        return self.outer(self.inner(x) * self.layer.scaling)

    @torch.no_grad()
    def merged(self) -> FactorisedLinear:
        """The layer itself with its factors changed, each rounded once; uses the LoRA up: to be called once."""
        self.layer.set_factors(self.inner.merged().weight, self.outer.merged().weight)  # type: ignore[arg-type]
        return self.layer


def _linear(factor: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    m, n = factor.shape
    linear = nn.Linear(n, m, bias=False, device="meta")
    linear.weight, linear.bias = factor, bias  # type: ignore[assignment]
    return linear


def merge_factors(model: nn.Module) -> nn.Module:
    """The model with every LoRA on factors merged into them."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, LoRAFactors)}
    replace(model, {name: module.merged() for name, module in found.items()})
    return model
