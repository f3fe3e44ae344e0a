"""A linear layer whose weight is a product of two thin factors and is never built: for pretraining and compression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import features, replace


class FactorisedLinear(nn.Module):
    """y = s (x A^T) B^T + b with A (r, n) and B (m, r), in place of a Linear or Conv1D of m outputs and n inputs.

    The factors have no values yet: `set_factors` gives them. The bias is the base's own.
    """

    def __init__(self, base: nn.Module, r: int, scaling: float = 1.0) -> None:
        super().__init__()
        weight: Tensor = base.weight  # type: ignore[assignment]
        m, n = features(base)
        self.r, self.scaling = r, scaling
        self.is_transposed = isinstance(base, Conv1D)  # how the plain layer stores its weight
        self.A = nn.Parameter(weight.new_empty(r, n))
        self.B = nn.Parameter(weight.new_empty(m, r))
        self.bias: nn.Parameter | None = base.bias  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to (..., m): 2 r (m + n) operations a token instead of 2 m n."""
        inner = F.linear(x, self.A)
        return F.linear(inner if self.scaling == 1.0 else inner * self.scaling, self.B, self.bias)

    @torch.no_grad()
    def set_factors(self, A: Tensor, B: Tensor) -> None:
        """Copies the factors in, rounded to the layer's precision."""
        self.A.copy_(A)
        self.B.copy_(B)

    @torch.no_grad()
    def dense_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix s B A (m, n), computed in `dtype`."""
        return self.scaling * (self.B.to(dtype) @ self.A.to(dtype))

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """The same function as a layer of the original class; summed in float32 or better, rounded once."""
        wide = torch.float64 if self.A.device.type == "cpu" else torch.float32
        weight = self.dense_weight(wide).to(self.A.dtype)  # (m, n)
        m, n = weight.shape
        if self.is_transposed:
            layer: Any = Conv1D(m, n).to(weight)
            weight = weight.T.contiguous()
        else:
            place = {"dtype": weight.dtype, "device": weight.device}
            layer = skip_init(nn.Linear, n, m, bias=self.bias is not None, **place)
        layer.weight = nn.Parameter(weight, requires_grad=self.A.requires_grad)
        if self.bias is not None:
            layer.bias = self.bias
        return layer


def factorised_layers(model: nn.Module) -> Mapping[str, FactorisedLinear]:
    """The factorised layers of a model by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FactorisedLinear)}


def make_plain(model: nn.Module) -> nn.Module:
    """The model with every factorised layer replaced by a plain one with the same outputs, one at a time."""
    for name, layer in factorised_layers(model).items():
        replace(model, {name: layer.plain()})
    return model
