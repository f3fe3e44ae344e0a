"""LoRA on Linear and on Conv1D (GPT-2's Linear, its weight stored transposed), whole or by slices of a fused output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import features
from lrexp.layers.lora_function import Columns, Map, lora_linear
from lrexp.layers.lora_layer import LoRALayer, LoRASettings
from lrexp.layers.quantised import QuantisedLinear
from lrexp.layers.shared_input import SharedInput
from lrexp.linalg.weight_only import Weight


def is_ordinary(base: nn.Module) -> bool:
    """Whether the base computes x W^T + b, as Linear and Conv1D themselves do."""
    return type(base).forward in (nn.Linear.forward, Conv1D.forward)


def is_disturbed(base: nn.Module, x: Tensor) -> bool:
    """Whether hooks, training of the base or an input that is no number forbid `lora_linear` in its place."""
    if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or not x.is_floating_point():
        return True
    return any(p.requires_grad for p in base.parameters())


class LoRALinear(LoRALayer):
    """A (r, n), B (m, r): y = x W^T + b + scaling * (x A^T) B^T."""

    columns: Columns | None = None  # a fused layer's adapted output columns; None: all
    shared: SharedInput | None = None  # the layers that are called on the same input

    def __init__(self, base: nn.Linear | Conv1D, settings: LoRASettings) -> None:
        m, n = features(base)
        super().__init__(base, settings, (settings.r, n), (m, settings.r))
        self.transposed = isinstance(base, Conv1D)
        self.is_ordinary = is_ordinary(base)

    def forward(self, x: Tensor) -> Tensor:
        """One fused function where nothing but x W^T + b happens in the base; the plain sum otherwise."""
        if self.is_plain(x):
            return super().forward(x)
        return lora_linear(x, self.map()) if self.shared is None else self.shared.output(self, x)

    def stored(self) -> Weight:
        """The weight as (m, n), as it is stored."""
        if isinstance(self.base, QuantisedLinear):
            return self.base.stored
        return self.weight.t() if self.transposed else self.weight

    def map(self) -> Map:
        """What the function computes with."""
        return Map(self.stored(), self.bias, self.lora_A, self.lora_B, self.scaling, self.columns, self.lora_E)

    def delta(self, x: Tensor) -> Tensor:
        """(x A^T diag(E)) B^T * scaling, in the factors' precision."""
        h = self.between(F.linear(x.to(self.lora_A.dtype), self.lora_A))  # (..., n) @ (n, r)
        return F.linear(h, self.lora_B)  # (..., r) @ (r, m)

    def matrices(self) -> list[Tensor]:
        """The weight as (m, n)."""
        return [self.weight.t() if self.transposed else self.weight]

    def in_layout(self, changes: Tensor) -> Tensor:
        """(1, m, n) in the base's orientation."""
        return changes[0].t() if self.transposed else changes[0]

    def is_plain(self, x: Tensor) -> bool:
        """Whether the output is the plain sum: the base is no ordinary layer, is disturbed, or the input is dropped."""
        drops = bool(self.lora_dropout and self.training)
        return drops or not self.is_ordinary or is_disturbed(self.base, x)


class LoRAFused(LoRALinear):
    """A pair of factors for each enabled slice of a fused output (q, k, v in one layer): A (e r, n), B (e m/p, r).

    The output is cut into p = len(slices) equal slices, e of them enabled; row blocks of A and B belong to the
    enabled slices in their order. Slices that are not enabled get no change. loralib's MergedLinear.
    """

    def __init__(self, base: nn.Linear | Conv1D, settings: LoRASettings, slices: tuple[bool, ...]) -> None:
        m, n = features(base)
        width, e = m // len(slices), sum(slices)
        LoRALayer.__init__(self, base, settings, (e * settings.r, n), (e * width, settings.r))
        self.transposed = isinstance(base, Conv1D)
        self.is_ordinary = is_ordinary(base)
        self.blocks = e
        self.slices = slices
        self.columns = tuple((j * width, (j + 1) * width) for j, enabled in enumerate(slices) if enabled)

    def delta(self, x: Tensor) -> Tensor:
        """The slices' changes side by side, zeros where a slice is not enabled."""
        h = self.between(F.linear(x.to(self.lora_A.dtype), self.lora_A))  # (..., n) @ (n, e r)
        changes = iter(
            [F.linear(h_j, B_j) for h_j, B_j in zip(h.chunk(self.blocks, -1), self.factors()[1], strict=True)]
        )
        width = self.lora_B.shape[0] // self.blocks
        zeros = h.new_zeros(*h.shape[:-1], width)
        return torch.cat([next(changes) if enabled else zeros for enabled in self.slices], dim=-1)

    def matrices(self) -> list[Tensor]:
        """The enabled slices of the weight, each (m/p, n)."""
        return [
            W for W, enabled in zip(super().matrices()[0].chunk(len(self.slices)), self.slices, strict=True) if enabled
        ]

    def in_layout(self, changes: Tensor) -> Tensor:
        """(e, m/p, n) in the base's orientation, with zeros for the slices that are not enabled."""
        full = changes.new_zeros(len(self.slices), *changes.shape[1:])
        full[list(self.slices)] = changes
        return super().in_layout(full.reshape(1, -1, changes.shape[2]))
