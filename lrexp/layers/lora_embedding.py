"""LoRA on an embedding table."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.layers.lora_layer import LoRALayer, LoRASettings


class LoRAEmbedding(LoRALayer):
    """A (r, V), B (d, r): y = W[ids] + scaling * A^T[ids] B^T.

    A starts at zero, not B: the reverse of Linear. Dropout is not applied.
    """

    starts_with_zero_A = True

    def __init__(self, base: nn.Embedding, settings: LoRASettings) -> None:
        V, d = base.weight.shape
        super().__init__(base, settings, (settings.r, V), (d, settings.r))
        self.lora_dropout = 0.0

    def delta(self, x: Tensor) -> Tensor:
        """The looked-up columns of A, widened by B; the base's padding index gets no gradient here either."""
        table: nn.Embedding = self.base  # type: ignore[assignment]
        h = F.embedding(
            x, self.lora_A.t(), table.padding_idx, scale_grad_by_freq=table.scale_grad_by_freq, sparse=table.sparse
        )  # (..., r)
        return F.linear(self.between(h), self.lora_B)  # (..., r) @ (r, d)

    def matrices(self) -> list[Tensor]:
        """The table as (d, V)."""
        return [self.weight.t()]

    def in_layout(self, changes: Tensor) -> Tensor:
        """(1, d, V) as (V, d)."""
        return changes[0].t()
