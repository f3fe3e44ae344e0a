"""Leading singular triplets of a matrix: exact or randomized, with canonical signs.

float64 stays float64; everything else is decomposed in float32 or better and returned in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Below this ratio S_r / S_1 the squared matrix has lost too many digits of S_r even in float64.
_GRAM_FLOOR = 1e-3
_NoConvergence = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]


class Triplets(NamedTuple):
    """The r leading singular triplets of an (m, n) matrix: U diag(S) Vh is its best approximation of rank r."""

    U: Tensor  # (m, r), orthonormal columns
    S: Tensor  # (r,), descending
    Vh: Tensor  # (r, n), orthonormal rows


def exact_svd(matrix: Tensor, r: int | None = None) -> Triplets:
    """The `r` leading triplets (all of them by default) of an (m, n) matrix, to working precision.

    A float32 matrix is squared over its smaller side in float64, which is several times faster than a bidiagonal SVD
    and more accurate as long as S_r is not tiny beside S_1; where it is, and for float64, the SVD itself is taken.
    Raises ValueError for NaN, infinity or r outside 1 .. min(m, n).
    """
    matrix = _checked(matrix, r)
    r = min(matrix.shape) if r is None else r
    triplets = _gram_svd(matrix, r) if matrix.dtype != torch.float64 else None
    if triplets is None:
        U, S, Vh = _thin_svd(matrix)
        triplets = Triplets(U[:, :r], S[:r], Vh[:r])
    return canonical_signs(triplets)


def singular_values(matrix: Tensor) -> Tensor:
    """All min(m, n) singular values of an (m, n) matrix, descending.

    Of a float32 matrix they come from its square over the smaller side in float64: below 1e-7 of the largest they are
    rounding. Raises ValueError for NaN or infinity.
    """
    matrix = _checked(matrix, None)
    if matrix.dtype == torch.float64:
        return torch.linalg.svdvals(matrix)
    wide = _wide(matrix)
    return torch.linalg.eigvalsh(wide @ wide.mT).flip(0).clamp_min(0).sqrt().to(matrix.dtype)


def randomized_svd(matrix: Tensor, r: int, niter: int, oversampling: int, omega: Tensor) -> Triplets:
    """The `r` leading triplets of an (m, n) matrix, from a random subspace that is iterated `niter` times.

    The subspace has r + oversampling dimensions, `omega` is its Gaussian test matrix (shape: `test_shape`). With no
    oversampling this is the plain procedure, whose error on a flat spectrum is large for few iterations. Halko,
    Martinsson, Tropp 2011, Algorithms 4.4 and 5.1.
    """
    matrix = _checked(matrix, r)
    m, n = matrix.shape
    tall = matrix if m >= n else matrix.mT  # (M, N), M >= N
    if tuple(omega.shape) != test_shape((m, n), r, oversampling):
        raise ValueError(f"omega is {tuple(omega.shape)}: it should be {test_shape((m, n), r, oversampling)}")
    Q = _orthonormal(omega.to(matrix), tall)
    for _ in range(niter):
        Q = _orthonormal(Q, tall.mT)
        Q = _orthonormal(Q, tall)
    small = exact_svd(Q.mT @ tall, r)  # of (q, M) @ (M, N)
    U, S, Vh = Q @ small.U, small.S, small.Vh
    return canonical_signs(Triplets(U, S, Vh) if m >= n else Triplets(Vh.mT, S, U.mT))


def test_shape(shape: tuple[int, int], r: int, oversampling: int) -> tuple[int, int]:
    """The shape of the test matrix `omega` for an (m, n) matrix: (min(m, n), r + oversampling, at most min(m, n))."""
    smaller = min(shape)
    return smaller, min(r + oversampling, smaller)


def canonical_signs(triplets: Triplets) -> Triplets:
    """Triplets whose every right singular vector has its entry of largest magnitude positive (the first of several)."""
    U, S, Vh = triplets
    sign = _signs(Vh)
    return Triplets(U * sign.mT, S, Vh * sign)


def canonical_rows(rows: Tensor) -> Tensor:
    """Vectors (k, n), each with its entry of largest magnitude positive (the first of several)."""
    return rows * _signs(rows)


def _signs(rows: Tensor) -> Tensor:
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))  # (k, 1)
    return torch.where(largest < 0, -1.0, 1.0).to(rows.dtype)


def _checked(matrix: Tensor, r: int | None) -> Tensor:
    if r is not None and not 1 <= r <= min(matrix.shape):
        raise ValueError(
            f"r is {r}: the matrix is {tuple(matrix.shape)}, r is at most {min(matrix.shape)} and at least 1"
        )
    if not torch.isfinite(matrix.sum()) and not torch.isfinite(matrix).all():  # the sum is quick, but can overflow
        raise ValueError("the matrix has NaN or infinite entries: it has no singular values")
    return matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))


def _gram_svd(matrix: Tensor, r: int) -> Triplets | None:
    """Triplets from the eigenvectors of the smaller Gram matrix in float64; None where that is not accurate."""
    m, n = matrix.shape
    wide = _wide(matrix)
    try:
        values, vectors = torch.linalg.eigh(wide @ wide.mT)  # ascending
    except _NoConvergence:
        return None
    S = values[-r:].flip(0).clamp_min(0).sqrt()
    if not S[-1] > _GRAM_FLOOR * S[0]:
        return None
    near = vectors[:, -r:].flip(1)  # (k, r)
    far = (near.mT @ wide) / S[:, None]  # (r, k) @ (k, l)
    U, Vh = (near, far) if m <= n else (far.mT, near.mT)
    return Triplets(*(t.to(matrix.dtype).contiguous() for t in (U, S, Vh)))


def _wide(matrix: Tensor) -> Tensor:
    """The matrix or its transpose in float64, (k, l) with k <= l."""
    return matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().mT


def _thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    for driver in (None, "gesvd") if matrix.is_cuda else (None,):
        try:
            return torch.linalg.svd(matrix, full_matrices=False, driver=driver)
        except _NoConvergence:
            continue
    import scipy.linalg  # the slower QR iteration converges where divide and conquer does not

    U, S, Vh = scipy.linalg.svd(matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
    return tuple(torch.from_numpy(t).to(matrix) for t in (U, S, Vh))  # type: ignore[return-value]


def _orthonormal(columns: Tensor, matrix: Tensor) -> Tensor:
    """An orthonormal basis of matrix @ columns, multiplied as rows: thin columns are slow on a CPU."""
    return torch.linalg.qr((columns.mT @ matrix.mT).mT).Q  # (q, N) @ (N, M)
