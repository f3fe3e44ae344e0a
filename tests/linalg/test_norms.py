"""The norm of a product and its gradients, without the product."""

from __future__ import annotations

import torch

from lrexp.linalg.norms import product_norm


def test_value_and_gradients_are_those_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    X, Y = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((9, 3), (3, 5))
    )
    expected = torch.linalg.norm(X @ Y)
    found = product_norm(X, Y)
    assert torch.allclose(found, expected)
    for one, other in zip(torch.autograd.grad(found, (X, Y)), torch.autograd.grad(expected, (X, Y)), strict=True):
        assert torch.allclose(one, other)


def test_it_is_flat_at_zero_and_never_narrow() -> None:
    X, Y = torch.ones(4, 2, requires_grad=True), torch.zeros(2, 4, requires_grad=True)
    norm = product_norm(X, Y)
    assert norm == 0 and all(not g.any() for g in torch.autograd.grad(norm, (X, Y)))
    assert product_norm(X.bfloat16(), Y.bfloat16()).dtype == torch.float32
    assert product_norm(torch.zeros(0, 2), torch.zeros(2, 0)) == 0
