"""What is summed over the rows of a layer's inputs: their second moment, and the mean magnitude of each channel."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SecondMoment:
    """Sum of x x^T over tokens: products in the data's float32 (or better), their sum over batches in float64."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))  # (n, n)
    tokens: int = 0

    def add(self, rows: Tensor) -> None:
        """Takes rows (tokens, n)."""
        if self.tokens == 0:
            self.total = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        self.total += rows.mT @ rows
        self.tokens += len(rows)


@dataclass
class MeanMagnitude:
    """Sum of |x| over tokens, channel by channel."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))  # (n,)
    tokens: int = 0

    def add(self, rows: Tensor) -> None:
        """Takes rows (tokens, n)."""
        self.total = self.total.to(rows.device) + rows.abs().sum(0, dtype=torch.float64)
        self.tokens += len(rows)

    def mean(self) -> Tensor:
        """The mean of |x_j|, (n,) in float64."""
        return self.total / max(1, self.tokens)
