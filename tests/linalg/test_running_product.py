"""A sum of products is held in whichever form is smaller, and gives its leading triplets from both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lrexp.linalg.running_product import LENGTH, CutProduct, DenseSum, product_svd, running_sum
from lrexp.linalg.svd import randomized_svd


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("m", "n"), [(30, 20), (20, 30)])
def test_a_product_is_decomposed_as_the_matrix_it_stands_for(m: int, n: int) -> None:
    g, x, omega = draw(50, m), draw(50, n, seed=1), draw(20, 12, seed=2)
    for ours, theirs in zip(product_svd(g, x, 6, 3, omega), randomized_svd(g.mT @ x, 6, 3, 6, omega), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("m", "n"), [(300, 200), (200, 300)])
def test_cut_again_and_again_it_keeps_the_leading_triplets(m: int, n: int) -> None:
    p, r = 16, 4
    decay = torch.arange(1, 61).float() ** -1
    left, right = draw(60, m), draw(60, n, seed=1)
    whole, cut = DenseSum(m, n), CutProduct(m, n, draw(min(m, n), p, seed=2))
    longest = 0
    for i in range(12):
        code = draw(40, 60, seed=3 + i)
        g, x = code * decay @ left, code @ right
        whole.add(g, x)
        cut.add(g, x)
        longest = max(longest, len(cut.g))
    assert longest <= LENGTH * p
    assert cut.norm() == pytest.approx(whole.norm(), rel=0.02)
    omega = draw(min(m, n), 4 * r, seed=9)
    exact, found = whole.triplets(r, 6, omega), cut.triplets(r, 6, omega)
    torch.testing.assert_close(found.S, exact.S, rtol=0.02, atol=0)
    for one, other in ((found.U, exact.U), (found.Vh.mT, exact.Vh.mT)):
        assert torch.linalg.svdvals(one.mT @ other).square().mean() > 0.99


def test_the_smaller_form_is_taken() -> None:
    assert isinstance(running_sum(64, 64, draw(64, 8)), DenseSum)
    assert isinstance(running_sum(64, 640, draw(64, 8)), CutProduct)
