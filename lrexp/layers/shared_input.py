"""Layers that are called one after the other on one input, q, k and v or gate and up: x A^T of all is one product.

Nothing is computed ahead but that product, of rank width, and nothing is assumed: a layer that is called with another
tensor than the one before, or a second time with the same, begins a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrexp.layers.lora_function import Handed, first, following, lora_linear
from lrexp.models.roles import plays

if TYPE_CHECKING:
    from lrexp.layers.lora_linear import LoRALinear

ROWS = (("q", "k", "v"), ("gate", "up"))  # roles that read one input
WIDE = 8  # more than an eighth of the input's width is a product of its own


class SharedInput:
    """The layers of one row. A tensor is recognised by what it is, not by its numbers."""

    def __init__(self, layers: Iterable[LoRALinear]) -> None:
        self.layers = list(layers)
        self.x: Tensor | None = None  # the input of the row that is under way
        self.left: list[LoRALinear] = []  # the layers that it has not reached
        self.handed: Handed | None = None

    def output(self, layer: LoRALinear, x: Tensor) -> Tensor:
        """The layer's output for an input (..., n)."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return lora_linear(x, layer.map())
        if x is self.x and layer in self.left:
            assert self.handed is not None
            y, handed = following(self.handed, layer.map(), self.left.index(layer))
            self._keep(x, [other for other in self.left if other is not layer], handed)
            return y
        left = [other for other in self.layers if other is not layer and not other.is_plain(x)]
        if not left:
            return lora_linear(x, layer.map())
        y, handed = first(x, layer.map(), [other.lora_A for other in left])
        self._keep(x, left, handed)
        return y

    def _keep(self, x: Tensor, left: list[LoRALinear], handed: Handed) -> None:
        """Remembers the row as long as there are layers to come: no tensor is held beyond its use."""
        self.x, self.left, self.handed = (x, left, handed) if left else (None, [], None)


def share_inputs(layers: Mapping[str, LoRALinear]) -> None:
    """Makes rows of the layers, by their names, that stand side by side in one module and read one input."""
    found: dict[tuple[str, int, int], list[LoRALinear]] = {}
    for name, layer in layers.items():
        for i, roles in enumerate(ROWS):
            if any(plays(name, role) for role in roles):
                found.setdefault((name.rpartition(".")[0], i, layer.lora_A.shape[1]), []).append(layer)
    for row in found.values():
        if len(row) > 1 and WIDE * sum(len(layer.lora_A) for layer in row) <= row[0].lora_A.shape[1]:
            shared = SharedInput(row)
            for layer in row:
                layer.shared = shared
