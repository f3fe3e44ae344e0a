"""DoRA layers: a LoRA on the direction of the weight, and a trained magnitude for each output.

    V = W + s B A      c_i = ||V_i||, no gradient through it      y = (mag / c) (x V^T) + b

Liu et al. 2024, arXiv 2402.09353, equation 5 and section 4.3 (c is a constant for the gradient). The rows' norms come
from W A^T and the Gram matrix of A, in float32, without a dense V; within a step they are computed once (`hold`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.layers.adapted import has_values
from lrexp.layers.lora_conv import LoRAConv2d
from lrexp.layers.lora_embedding import LoRAEmbedding
from lrexp.layers.lora_function import Map
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.lora_linear import LoRAFused, LoRALinear

CHUNK = 2**22  # entries of the weight that are widened to float32 at a time


class DoRALayer(LoRALayer):
    """What DoRA adds to a LoRA layer of any kind; to be inherited before the kind.

    `lora_magnitude` has an entry for each output that is adapted: `matrices()` and `factors()` say which row is whose.
    """

    held: Tensor | None = None  # the norms c of this step
    known: tuple[object, list[Tensor]] | None = None  # what W's rows were squared from, and their squares

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.lora_magnitude = nn.Parameter(self.lora_B.new_ones(self.lora_B.shape[0]))

    @torch.no_grad()
    def begin(self) -> None:
        """Sets the magnitudes to the norms of now: the layer computes V."""
        if has_values(self.lora_A):
            self.lora_magnitude.copy_(self.norms())

    def follow_base(self) -> None:
        """The norms of now, for magnitudes that nothing has trained yet: the layer computes V with the rounded W."""
        self.known = None
        self.begin()

    @torch.no_grad()
    def norms(self) -> Tensor:
        """The norms c of the rows of V, (blocks * m,), float32 or better.

        c_i^2 = ||W_i||^2 + 2 s (W A^T)_i B_i + s^2 B_i (A A^T) B_i^T
        """
        found, matrices = [], self.matrices()
        for W, A, B, squares in zip(matrices, *self.factors(), self._squares(matrices), strict=True):
            wide = squares.dtype
            A, B = A.to(wide), B.to(wide) * self.scaling
            gram = A @ A.t()  # (r, r)
            cross = torch.cat([(rows.to(wide) @ A.t()) for rows in _chunks(W)])  # (m', n) @ (n, r)
            found.append(squares + 2 * (cross * B).sum(1) + ((B @ gram) * B).sum(1))
        return torch.cat(found).clamp_min(0).sqrt()

    def _squares(self, matrices: list[Tensor]) -> list[Tensor]:
        """The ||W_i||^2 of every block, float32 or better: of a frozen W they are found once."""
        W, wide = matrices[0], torch.promote_types(self.lora_A.dtype, torch.float32)
        key = (id(self.base), W.device, W.dtype, wide, has_values(W))
        if self.known is None or self.known[0] != key:
            squares = [torch.cat([rows.to(wide).square().sum(1) for rows in _chunks(W)]) for W in matrices]
            self.known = (key, squares)
        return self.known[1]

    def hold(self) -> None:
        """Computes the norms for the step to come: the factors do not move within it."""
        self.held = self.norms()

    def gain(self) -> Tensor:
        """Mag / c for every output of the layer, in float32 or better; 1 for outputs that are not adapted."""
        norms = self.held if self.training and self.held is not None else self.norms()
        return self.of_outputs(self.lora_magnitude.to(norms.dtype) / norms)

    @torch.no_grad()
    def magnitude_of_outputs(self) -> Tensor:
        """The magnitudes of all outputs: where nothing is adapted, the norm that the weight has."""
        return self.lora_magnitude.detach().clone()

    def of_outputs(self, gain: Tensor) -> Tensor:
        """The gains of the adapted rows as gains of the layer's outputs, in the shape that multiplies an output."""
        return gain

    def forward(self, x: Tensor) -> Tensor:
        """Y = gain * (base(x) - b + delta(x)) + b; with dropout base(x) + (gain - 1) x' W^T + gain * delta(x')."""
        y, gain, bias = self.base(x), self.gain(), self.bias_of_outputs()
        if not (self.lora_dropout and self.training):
            unbiased = y if bias is None else y - bias
            z = (unbiased + self.delta(x)) * gain
            return (z if bias is None else z + bias).to(y.dtype)
        dropped = F.dropout(x, self.lora_dropout)
        again = self.base(dropped)
        unbiased = again if bias is None else again - bias
        return (y + (gain - 1) * unbiased + gain * self.delta(dropped)).to(y.dtype)

    def bias_of_outputs(self) -> Tensor | None:
        """The bias in the shape that is added to an output."""
        return self.bias

    def delta_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """diag(mag / c) V - W in the layout of the base's weight."""
        A, B = (f.to(torch.promote_types(f.dtype, dtype)) for f in self.factors())
        W = torch.stack([W.to(A.dtype) for W in self.matrices()])
        V = W + torch.bmm(B * self.scaling, A)
        gain = (self.lora_magnitude.to(A.dtype) / V.norm(dim=2).view(-1)).view(self.blocks, -1, 1)
        return self.in_layout(gain * V - W)


def _chunks(W: Tensor) -> tuple[Tensor, ...]:
    """The rows of W, as many at a time as are widened at once."""
    return W.split(max(1, CHUNK // W.shape[1]))


class DoRALinear(DoRALayer, LoRALinear):
    """DoRA on Linear and Conv1D."""

    def forward(self, x: Tensor) -> Tensor:
        """One fused function where nothing but x W^T + b happens in the base; the plain sum otherwise."""
        return DoRALayer.forward(self, x) if self.is_plain(x) else LoRALinear.forward(self, x)

    def map(self) -> Map:
        """What the function computes with."""
        return super().map()._replace(gain=self.gain())


class DoRAFused(DoRALinear, LoRAFused):
    """DoRA on slices of a fused output."""

    @torch.no_grad()
    def magnitude_of_outputs(self) -> Tensor:
        """(m,)."""
        W = self.weight.t() if self.transposed else self.weight
        norms = W.to(self.lora_magnitude.dtype).norm(dim=1).view(len(self.slices), -1)
        norms[list(self.slices)] = self.lora_magnitude.view(self.blocks, -1)
        return norms.view(-1)

    def of_outputs(self, gain: Tensor) -> Tensor:
        """(e * width,) as (m,), 1 in the slices that are not enabled."""
        full = gain.new_ones(len(self.slices), gain.numel() // self.blocks)
        return full.index_copy(0, torch.tensor([i for i, on in enumerate(self.slices) if on], device=gain.device),
                               gain.view(self.blocks, -1)).view(-1)  # fmt: skip


class DoRAConv2d(DoRALayer, LoRAConv2d):
    """DoRA on Conv2d in PEFT's layout: a magnitude for each output channel, norms over the whole kernel."""

    def of_outputs(self, gain: Tensor) -> Tensor:
        """(out,) as (out, 1, 1)."""
        return gain.view(-1, 1, 1)

    def bias_of_outputs(self) -> Tensor | None:
        """(out, 1, 1)."""
        return None if self.bias is None else self.bias.view(-1, 1, 1)


class DoRAEmbedding(DoRALayer, LoRAEmbedding):
    """DoRA on an embedding table: a magnitude for each of its d columns, norms over the vocabulary."""


DORA: dict[type[LoRALayer], type[DoRALayer]] = {
    LoRALinear: DoRALinear, LoRAFused: DoRAFused, LoRAConv2d: DoRAConv2d, LoRAEmbedding: DoRAEmbedding,
}  # fmt: skip
