"""Low-rank approximation of a matrix for given inputs: min ||(W - B A) X||_F, by a square root S of X X^T = S S^T.

SVD-LLM (arXiv 2403.07378), section 3.1; ASVD (arXiv 2312.05821), section 3.2, is the case of a diagonal S. With W S =
U diag(sigma) V^T the authors take A = sqrt(sigma) V^T S^-1. Since V^T S^-1 = diag(1 / sigma) U^T W, no inverse is
needed: B A = U_r U_r^T W, whatever square root is taken, and an S that is nearly singular damages nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 1e-8  # times the mean of the diagonal: directions without data are ranked by the weight alone


def root(moment: Tensor) -> Tensor:
    """S (n, n) in float64 with S S^T = moment (n, n), damped by 1e-8 of its mean diagonal.

    The Cholesky factor, or, where rounding has left a moment that is not positive, `eigen_root`. The damping moves the
    error of an approximation by at most 1e-8 of ||W||_F^2 times the mean diagonal. A moment of zeros counts as the
    identity. Raises ValueError for NaN or infinity.
    """
    damped = moment.double().clone()
    scale = float(damped.diagonal().mean())
    if not torch.isfinite(damped.sum()):
        raise ValueError("the inputs have NaN or infinite entries: their second moment has no square root")
    damped.diagonal().add_(DAMPING * scale if scale > 0 else 1.0)
    found, failed = torch.linalg.cholesky_ex(damped)
    return eigen_root(damped) if failed else found


def eigen_root(moment: Tensor) -> Tensor:
    """S = Q sqrt(lambda) (n, n) in float64 from the eigenvectors and eigenvalues of a moment (n, n).

    Eigenvalues that a sum in float32 cannot tell from zero, n eps of the largest, are raised to that.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    cutoff = len(values) * torch.finfo(torch.float32).eps * float(values[-1])
    return vectors * values.clamp_min(cutoff).sqrt()


def diagonal_root(magnitude: Tensor, alpha: float) -> Tensor:
    """S (n,) in float64, the diagonal of ASVD's scaling: magnitude^alpha, at least 1e-8 of its mean. ASVD, equation 7.

    `magnitude` is the mean absolute value of each input channel; zeros alone count as ones. Raises ValueError for NaN
    or infinity.
    """
    scale = magnitude.double() ** alpha
    mean = scale.mean()
    if not torch.isfinite(mean):
        raise ValueError("the inputs have NaN or infinite entries: their channels cannot be scaled")
    return scale.clamp_min(DAMPING * float(mean)) if mean > 0 else torch.ones_like(scale)


def scaled(W: Tensor, root: Tensor | None) -> Tensor:
    """W S (m, n) in float32 or better, for a root that is a matrix, a diagonal, or absent."""
    W = W.detach().to(torch.promote_types(W.dtype, torch.float32))
    if root is None:
        return W
    return W @ root.to(W) if root.ndim == 2 else W * root.to(W)


def factors(W: Tensor, U: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """A (r, n) and B (m, r) with B A = U U^T W, from the leading triplets U (m, r), S (r,) of W times its root.

    Both are scaled by sqrt(S), as the authors do: B = U sqrt(S), A = U^T W / sqrt(S). Directions whose singular value
    is zero to working precision get zeros.
    """
    W = W.detach().to(U.dtype)
    root = S.sqrt()
    inverse = torch.where(torch.finfo(S.dtype).eps * S[0] < S, 1 / root, 0.0)
    return inverse[:, None] * (U.mT @ W), U * root  # (r, m) @ (m, n)
