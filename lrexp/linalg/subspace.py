"""An orthonormal basis of a matrix's leading right singular vectors: exact, or by iterating a subspace.

Computed in float32 or better; the basis has the singular vectors as columns, the leading one first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrexp.linalg.svd import exact_svd

_ENOUGH = 0.99  # of the matrix's energy (its squared Frobenius norm): where the subspace holds as much, it is taken
_GAIN = 1e-3  # of the energy: where an iteration brings less, the next would not help


def exact_basis(matrix: Tensor, r: int) -> Tensor:
    """The `r` leading right singular vectors of an (m, n) matrix as columns (n, r). Raises ValueError for NaN."""
    return exact_svd(matrix, r).Vh.mT


def raw_basis(matrix: Tensor, r: int) -> Tensor:
    """The same with the signs that the library's SVD happens to give: they differ from one machine to the next."""
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    return torch.linalg.svd(wide, full_matrices=False).Vh[:r].mT


def iterated_basis(matrix: Tensor, r: int, start: Tensor, niter: int) -> Tensor:
    """The same nearly, from at most `niter` steps of subspace iteration on `start` (n, q), r <= q <= min(m, n).

    An iteration costs 4 m n q operations and two thin QRs. Few are made where the subspace already holds nearly all
    of the matrix, or where one more has brought little. Halko, Martinsson, Tropp 2011, algorithm 4.4; the columns
    beyond r are dropped at the end by the singular values of the matrix within the subspace.
    """
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    energy = float(torch.linalg.vector_norm(wide)) ** 2
    basis, R = start.to(wide), start
    before = 0.0
    for _ in range(niter):
        left = torch.linalg.qr(wide @ basis).Q  # (m, q)
        image = wide.mT @ left  # (n, q)
        basis, R = torch.linalg.qr(image)
        held = float(torch.linalg.vector_norm(R)) ** 2
        if held >= _ENOUGH * energy or held - before <= _GAIN * energy:
            break
        before = held
    R = R.double()  # (q, q), squared below: a float32 square would lose all but the largest values
    vectors = torch.linalg.eigh(R @ R.mT).eigenvectors  # ascending
    return basis @ vectors[:, -r:].flip(1).to(basis)
