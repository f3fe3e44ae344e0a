"""Bases of leading singular vectors: exact where they can be, near where they are iterated, always orthonormal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lrexp.linalg.subspace import exact_basis, iterated_basis, raw_basis


def decaying(m: int, n: int, rate: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A matrix with singular values rate^i."""
    generator = torch.Generator().manual_seed(1)
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64)).Q
    return ((U * rate ** torch.arange(k)) @ V.T).to(dtype)


def start(n: int, q: int) -> Tensor:
    return torch.randn(n, q, generator=torch.Generator().manual_seed(2))


def captured(matrix: Tensor, basis: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix.double() @ basis.double()) ** 2)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
@pytest.mark.parametrize("rate", [0.7, 0.9])
def test_iterated_basis_captures_nearly_what_the_exact_one_does(shape: tuple[int, int], rate: float) -> None:
    matrix = decaying(*shape, rate)
    found, exact = iterated_basis(matrix, 6, start(shape[1], 12), 3), exact_basis(matrix, 6)
    assert captured(matrix, found) >= 0.99 * captured(matrix, exact)
    torch.testing.assert_close(found.T @ found, torch.eye(6), rtol=0, atol=1e-5)


def test_columns_are_the_singular_vectors_where_these_are_told_apart() -> None:
    matrix = decaying(40, 24, 0.5)
    V = torch.linalg.svd(matrix.double(), full_matrices=False).Vh[:5].T
    for found in (iterated_basis(matrix, 5, start(24, 12), 3), exact_basis(matrix, 5), raw_basis(matrix, 5)):
        torch.testing.assert_close((found.double() * V).sum(0).abs(), torch.ones(5).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.2, 0.05])
def test_the_basis_is_orthonormal_where_values_fall_below_rounding(ratio: float) -> None:
    basis = iterated_basis(decaying(50, 40, ratio), 20, start(40, 28), 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(20), rtol=0, atol=1e-5)


def test_all_directions_of_the_smaller_side_are_found_exactly() -> None:
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(3))
    basis = iterated_basis(matrix, 12, start(30, 12), 1)
    assert captured(matrix, basis) == pytest.approx(float(matrix.double().square().sum()), rel=1e-5)


def test_a_good_start_needs_one_iteration() -> None:
    matrix = decaying(60, 60, 0.99)
    exact = exact_basis(matrix, 10)
    cold, warm = (iterated_basis(matrix, 10, s, 1) for s in (start(60, 10), exact))
    assert captured(matrix, warm) > 0.9999 * captured(matrix, exact) > captured(matrix, cold)


def test_on_a_flat_spectrum_every_iteration_brings_more() -> None:
    matrix = decaying(40, 24, 0.98)
    one, three = (captured(matrix, iterated_basis(matrix, 6, start(24, 8), niter)) for niter in (1, 3))
    assert one < three < captured(matrix, exact_basis(matrix, 6))


def test_zero_and_float64() -> None:
    assert torch.isfinite(iterated_basis(torch.zeros(9, 7), 3, start(7, 5), 2)).all()
    assert iterated_basis(decaying(9, 7, 0.5, torch.float64), 3, start(7, 5), 2).dtype == torch.float64
