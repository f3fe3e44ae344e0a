"""What all LoRA layers share: y = base(x) + scaling * (x A^T diag(E)) B^T, whatever the layer's kind.

LoRA has no E; methods in the shape of singular triplets have, and those that train it alone, between frozen factors.

Hu et al. 2021 (arXiv 2106.09685), section 4; scaling of rank-stabilised LoRA from Kalajdzievski 2023 (arXiv
2312.03732).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.layers.adapted import AdaptedLayer, add


@dataclass(frozen=True)
class LoRASettings:
    """Rank, scale and dropout of one layer, and the precision and place of its factors."""

    r: int
    lora_alpha: float
    use_rslora: bool = False
    lora_dropout: float = 0.0
    dtype: torch.dtype = torch.float32
    device: torch.device | None = None  # None: the base's
    diagonal: bool = False  # a vector E between the factors


class LoRALayer(AdaptedLayer):
    """Factors, scaling, dropout, and the base's weight seen as the matrices that B A adds to.

    `blocks` is 1, but for a fused layer with one pair of factors for each of its slices. `lora_A` and `lora_B` keep
    the shapes of the layer's kind; `factors` shows them as (blocks, rank, n) and (blocks, m, rank).
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_E: nn.Parameter | None  # (blocks * rank,)
    starts_with_zero_A = False  # True where A, not B, is the factor that starts at zero

    def __init__(
        self, base: nn.Module, settings: LoRASettings, shape_A: tuple[int, ...], shape_B: tuple[int, ...]
    ) -> None:
        super().__init__(base)
        self.r = settings.r
        self.lora_alpha = settings.lora_alpha
        self.use_rslora = settings.use_rslora
        self.lora_dropout = settings.lora_dropout
        self.rank = self.r  # the inner dimension of B A: layouts may widen it
        self.blocks = 1
        device = self.weight.device if self.weight.is_meta else settings.device
        self.lora_A = nn.Parameter(self.weight.new_zeros(shape_A, dtype=settings.dtype, device=device))
        self.lora_B = nn.Parameter(self.weight.new_zeros(shape_B, dtype=settings.dtype, device=device))
        if settings.diagonal:
            self.lora_E = nn.Parameter(self.weight.new_zeros(shape_A[0], dtype=settings.dtype, device=device))
        else:
            self.register_parameter("lora_E", None)

    @property
    def scaling(self) -> float:
        """The factor on B A: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def forward(self, x: Tensor) -> Tensor:
        """The base's output plus the change; dropout acts on the input of the change alone."""
        dropped = F.dropout(x, self.lora_dropout) if self.lora_dropout and self.training else x
        return add(self.base(x), self.delta(dropped))

    def between(self, h: Tensor, axis: int = -1) -> Tensor:
        """A product with A, times the scale and the diagonal along its axis of rank size."""
        h = h * self.scaling
        return h if self.lora_E is None else h * self.lora_E.to(h.dtype).view(-1, *([1] * (-1 - axis)))

    def factors(self) -> tuple[Tensor, Tensor]:
        """(A, B) as (blocks, rank, n) and (blocks, m, rank): views of the parameters."""
        return self.seen(self.lora_A, self.lora_B)

    def seen(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors of the factors' sizes as (blocks, rank, n) and (blocks, m, rank)."""
        return A.view(self.blocks, self.rank, -1), B.view(self.blocks, -1, self.rank)

    def matrices(self) -> list[Tensor]:
        """The matrices (m, n) that B A adds to, one for each block: views of the base's weight."""
        return [self.weight.view(self.lora_B.numel() // self.rank, -1)]

    def in_layout(self, changes: Tensor) -> Tensor:
        """Changes of the matrices, (blocks, m, n), as a change of the base's weight."""
        return changes.reshape(self.weight.shape)

    def delta_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """B diag(E) A * scaling in the layout of the base's weight."""
        A, B = self.folded()
        wide = torch.promote_types(B.dtype, dtype)
        A, B = A.to(wide), B.to(wide)
        return self.in_layout(torch.bmm(B * self.scaling, A))  # (blocks, m, rank) @ (blocks, rank, n)

    def folded(self) -> tuple[Tensor, Tensor]:
        """The factors as of a LoRA without E: (A, B diag(E)), the product in float32 or better."""
        A, B = self.factors()
        if self.lora_E is None:
            return A, B
        wide = torch.promote_types(B.dtype, torch.float32)
        return A, B.to(wide) * self.lora_E.to(wide).view(self.blocks, 1, self.rank)

    @torch.no_grad()
    def set_factors(self, A: Tensor, B: Tensor) -> None:
        """Takes factors of the shapes (blocks, rank, n) and (blocks, m, rank), rounded to the parameters' precision."""
        self.lora_A.copy_(A.reshape(self.lora_A.shape))
        self.lora_B.copy_(B.reshape(self.lora_B.shape))

    def freeze_factors(self) -> None:
        """Makes A and B buffers, which are kept with the run as they are: E alone is trained."""
        for name in ("lora_A", "lora_B"):
            factor = getattr(self, name).detach()
            delattr(self, name)
            self.register_buffer(name, factor)

    def take_from_base(self) -> None:
        """Subtracts the change of now from the base's weight: the layer computes what the base did."""
        self.take(*(factor.detach().clone() for factor in self.folded()))

    @torch.no_grad()
    def take(self, A0: Tensor, B0: Tensor) -> None:
        """Subtracts scaling * B0 A0 from the base's weight, and keeps A0 and B0 in the shapes of the factors.

        They are already in their own precision: what is left in the base is exact to one rounding.
        `difference_to_original` needs them later.
        """
        for W, A, B in zip(self.matrices(), *self.seen(A0, B0), strict=True):
            wide = torch.promote_types(torch.promote_types(W.dtype, A.dtype), torch.float32)
            scaled = B.to(wide) * -self.scaling
            if W.dtype == wide:
                W.addmm_(scaled, A.to(wide))  # (m, rank) @ (rank, n)
            else:
                W.copy_(torch.addmm(W.to(wide), scaled, A.to(wide)))
        self.register_buffer("lora_A0", A0.reshape(self.lora_A.shape))
        self.register_buffer("lora_B0", B0.reshape(self.lora_B.shape))


def difference_to_original(layer: LoRALayer) -> tuple[Tensor, Tensor, int, float]:
    """(A', B', r', alpha') of a plain LoRA on the original base that computes what this layer does, equally scaled.

    Where the start was taken from the base: A' = [A; A0] and B' = [B, -B0] of rank 2r; else the layer's own factors,
    without what a zero in E takes out of all blocks. PiSSA (arXiv 2404.02948), conversion to LoRA.
    """
    A, B = (f.detach() for f in layer.folded())
    if not hasattr(layer, "lora_A0"):
        A, B, r = (A, B, layer.r) if layer.lora_E is None else _live(A, B, layer.lora_E)
        share = r / layer.r
        A, B = A.reshape(-1, *layer.lora_A.shape[1:]), B.reshape(layer.lora_B.shape[0], -1, *layer.lora_B.shape[2:])
        return A, B, r, layer.lora_alpha * (math.sqrt(share) if layer.use_rslora else share)
    A0, B0 = layer.lora_A0.view_as(A), layer.lora_B0.view_as(B)  # type: ignore[operator]
    stacked_A = torch.cat([A, A0], dim=1).reshape(-1, *layer.lora_A.shape[1:])  # (blocks * 2 rank, ...)
    stacked_B = torch.cat([B, -B0], dim=2).reshape(layer.lora_B.shape[0], 2 * layer.rank, *layer.lora_B.shape[2:])
    alpha = layer.lora_alpha * (math.sqrt(2) if layer.use_rslora else 2)
    return stacked_A, stacked_B, 2 * layer.r, alpha


def _live(A: Tensor, B: Tensor, E: Tensor) -> tuple[Tensor, Tensor, int]:
    """Factors (blocks, r, n) and (blocks, m, r) cut to what E leaves: the same number for each block, at least 1."""
    live = (E != 0).view(A.shape[0], A.shape[1])
    r = max(1, int(live.sum(1).max()))
    first = live.int().argsort(dim=1, descending=True, stable=True)[:, :r]  # (blocks, r), in their order
    return A.take_along_dim(first[:, :, None], 1), B.take_along_dim(first[:, None, :], 2), r
