"""The LDU factorisation: products, order of rows, pivots of 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lrexp.linalg.ldu import ldu, normalised, pivoted

SHAPES = [(8, 8), (13, 6), (6, 13), (1, 4), (4, 1)]


def matrix(m: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_give_the_matrix_with_its_rows_in_order(shape: tuple[int, int]) -> None:
    W = matrix(*shape)
    found = ldu(W)
    assert torch.allclose(found.L @ found.R, W[found.order], atol=1e-12)
    P, L, R = torch.linalg.lu(W)
    assert torch.equal(F.one_hot(found.order, shape[0]).mT.to(P), P)
    assert torch.allclose(found.L, L) and torch.allclose(found.R, R) and torch.equal(found.D, R.diagonal())


@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_are_the_same_products(shape: tuple[int, int]) -> None:
    W = matrix(*shape)
    found, k = ldu(W), min(shape)
    for r in {1, k}:
        plain, unit = pivoted(found, r), normalised(found, r)
        assert torch.allclose((plain.B * plain.d) @ plain.A, (unit.B * unit.d) @ unit.A, atol=1e-12)
        assert torch.allclose(unit.B.norm(dim=0), torch.ones(r).double())
        assert torch.allclose(unit.A.norm(dim=1), torch.ones(r).double())
        assert torch.allclose(plain.A.diagonal(), torch.ones(r).double())
    B, d, A = pivoted(found, k)
    assert torch.allclose((B * d) @ A, W, atol=1e-12)


def test_pivots_of_zero_are_refused_or_harmless() -> None:
    W = matrix(6, 6)
    W[:, 2] = W[:, 0]  # after two rows nothing is left of the third column
    W[4] = 0
    found = ldu(W)
    with pytest.raises(ValueError, match=r"pivot 2 is .*too small"):
        pivoted(found, 6)
    assert torch.isfinite(pivoted(found, 2).A).all()
    B, d, A = normalised(found, 6)
    assert torch.isfinite(A).all() and torch.allclose((B * d) @ A, W, atol=1e-12)
    B, d, A = normalised(ldu(torch.zeros(3, 4)), 3)
    assert not A.any() and not d.any() and torch.isfinite(B).all()


def test_precision_and_what_has_no_factorisation() -> None:
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32)):
        assert {t.dtype for t in ldu(matrix(5, 4, dtype))[1:]} == {wide}
    W = matrix(5, 4)
    W[1, 1] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite"):
        ldu(W)
