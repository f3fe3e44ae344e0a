"""Norms of products that are never formed."""

from __future__ import annotations

import torch
from torch import Tensor


def product_norm(X: Tensor, Y: Tensor) -> Tensor:
    """The Frobenius norm of X Y for X (a, d) and Y (d, b), in float32 or better; its gradient at 0 is 0.

    From ||X Y||^2 = sum of (X^T X) (Y Y^T), entry by entry: d^2 (a + b) operations, no matrix (a, b). A product that is
    small beside ||X|| ||Y|| keeps half the digits.
    """
    wide = torch.promote_types(X.dtype, torch.float32)
    X, Y = X.to(wide), Y.to(wide)
    squared = ((X.mT @ X) * (Y @ Y.mT)).sum()  # (d, d)
    is_positive = squared > 0
    return torch.where(is_positive, torch.where(is_positive, squared, 1).sqrt(), 0)
