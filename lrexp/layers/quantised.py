"""Frozen linear layers whose weight is stored in fewer bits, and how a prepared model gets them and loses them again.

The weight is made dense for a product and let go; the backward pass makes it again. Its numbers are in no file: they
come from the base, as the method prepared it, whenever a run goes on or is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import adapted_layers, replace
from lrexp.layers.quantisers import quantise
from lrexp.linalg.weight_only import Kind, Quantised, dense, fits
from lrexp.models.roles import own_linears


class QuantisedLinear(nn.Module):
    """What a Linear or a Conv1D computes, from a weight (m, n) in fewer bits.

    `weight` is dense, in the base's precision and layout, and made anew whenever it is asked for: products have their
    own way. Tensors of the stored weight are buffers that no file holds; a cast changes the dense weight's precision.
    """

    def __init__(self, base: nn.Linear | Conv1D, stored: Quantised) -> None:
        super().__init__()
        self.form, self.dtype = type(stored), stored.dtype
        self.is_transposed = isinstance(base, Conv1D)
        self.bias = base.bias
        for name, tensor in stored._asdict().items():
            if isinstance(tensor, Tensor):
                self.register_buffer(name, tensor, persistent=False)

    @property
    def stored(self) -> Quantised:
        """The weight (m, n) as it is stored, in the precision of now."""
        return self.form(**self._buffers, dtype=self.dtype)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """The dense weight."""
        W = self.stored.dense(self.dtype)
        return W.t() if self.is_transposed else W

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to (..., m)."""
        return frozen_linear(x, self.stored, self.bias)

    def plain(self, dtype: torch.dtype) -> nn.Module:
        """The layer of the original class, its weight dense."""
        m, n = self.stored.shape
        W = self.stored.dense(dtype)
        layer = nn.Linear(n, m, device="meta") if not self.is_transposed else Conv1D(m, n)
        layer.weight = nn.Parameter(W.t().contiguous() if self.is_transposed else W, requires_grad=False)
        layer.bias = self.bias  # type: ignore[assignment]
        return layer.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedLinear:
        held = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in held.items():
            assert tensor is not None
            moved = self._buffers[name]
            self._buffers[name] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)  # type: ignore[union-attr]
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self._buffers["data"].device)).dtype  # type: ignore[union-attr]
        return self


def frozen_linear(x: Tensor, W: Quantised, b: Tensor | None) -> Tensor:
    """Gives x W^T + b for x (..., n) and a stored W (m, n), in W's precision or autocast's; x alone gets a gradient."""
    return _FrozenLinear.apply(x, W, b)  # type: ignore[return-value]


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Quantised, b: Tensor | None) -> Tensor:
        kind = x.device.type
        wide = W.dtype
        if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
            wide = torch.get_autocast_dtype(kind)
        ctx.W, ctx.wide, ctx.dtype = W, wide, x.dtype
        return F.linear(x.to(wide), dense(W, wide), None if b is None else b.to(wide))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (grads[0] @ dense(ctx.W, ctx.wide)).to(ctx.dtype), None, None


def quantise_base(model: nn.Module, kind: Kind, head: tuple[str, ...]) -> tuple[int, list[str]]:
    """Stores the weights of frozen linear layers in fewer bits, one at a time, the bases of adapters too.

    Gives how many, and the names of those whose rows do not fit. Left as they are, too: the head, the output layer,
    weights that layers share, and layers of which something is trained.
    """
    done, left = 0, []
    for name in own_linears(model, head):
        layer: Any = model.get_submodule(name)
        if any(p.requires_grad for p in layer.parameters()):
            continue
        W = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
        if not fits(W.shape[1], kind):
            left.append(name)
            continue
        replace(model, {name: QuantisedLinear(layer, quantise(W.detach(), kind))})
        done += 1
    for layer in adapted_layers(model).values():
        layer.follow_base()
    return done, left


@torch.no_grad()
def dequantise(model: nn.Module) -> nn.Module:
    """The model with plain layers again, dense in float32 or better, one at a time."""
    for name in [name for name, layer in model.named_modules() if isinstance(layer, QuantisedLinear)]:
        layer = model.get_submodule(name)
        if isinstance(layer, QuantisedLinear):
            replace(model, {name: layer.plain(torch.promote_types(layer.dtype, torch.float32))})
    return model


def stored_entries(model: nn.Module) -> int:
    """Entries of all weights that are stored in fewer bits: parameters that no list of them has."""
    shapes = [layer.stored.shape for layer in model.modules() if isinstance(layer, QuantisedLinear)]
    return sum(m * n for m, n in shapes)
