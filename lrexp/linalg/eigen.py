"""Leading eigenpairs of a symmetric matrix that is known by its products, as large covariances are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def leading_eigenpairs(
    apply: Callable[[Tensor], Tensor], start: Tensor, k: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The k leading eigenvalues, descending, and eigenvectors as rows (k, n), of a positive semi-definite matrix C.

    `apply(Q)` is C Q for columns Q (n, any); `start` (n, p), p >= k, is where the search begins. A block Krylov space
    grows by p dimensions a round until every residual |C v - l v| is at most `tolerance` times the largest eigenvalue;
    a space of half of the dimensions is dearer than the whole decomposition, which is then taken. Musco and Musco 2015,
    arXiv 1504.05477, Algorithm 2.
    """
    n, p = start.shape
    basis = torch.linalg.qr(start).Q
    image = apply(basis)
    while basis.shape[1] + p <= n // 2:
        values, within = torch.linalg.eigh(basis.mT @ image)  # ascending
        values, within = values[-k:].flip(0), within[:, -k:].flip(1)
        vectors = basis @ within  # (n, k)
        residual = torch.linalg.vector_norm(image @ within - vectors * values, dim=0)
        if residual.max() <= tolerance * values[0]:
            return values.clamp_min(0), vectors.mT.contiguous()
        block = _orthogonal_to(basis, image[:, -p:])
        basis, image = torch.cat([basis, block], dim=1), torch.cat([image, apply(block)], dim=1)
    values, vectors = torch.linalg.eigh(apply(torch.eye(n, dtype=start.dtype, device=start.device)))
    return values[-k:].flip(0).clamp_min(0), vectors[:, -k:].flip(1).mT.contiguous()


def _orthogonal_to(basis: Tensor, block: Tensor) -> Tensor:
    """An orthonormal basis of the part of `block` outside of `basis`; done twice, since once leaves rounding."""
    for _ in range(2):
        block = torch.linalg.qr(block - basis @ (basis.mT @ block)).Q
    return block
