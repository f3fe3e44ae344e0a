"""The best product for given inputs: the same by every square root, exact where it can be, sound for singular data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrexp.linalg import whitening
from lrexp.linalg.random import generator
from lrexp.linalg.svd import exact_svd


def drawn(m: int, n: int, tokens: int) -> tuple[Tensor, Tensor]:
    draw = generator(0, "data", m, n, tokens)
    X = torch.randn(tokens, n, generator=draw, dtype=torch.float64) * torch.linspace(0.1, 3, n)
    mix = torch.eye(n, dtype=torch.float64) + 0.3 * torch.randn(n, n, generator=draw, dtype=torch.float64)
    return torch.randn(m, n, generator=draw, dtype=torch.float64), X @ mix


def product(W: Tensor, S: Tensor | None, r: int) -> Tensor:
    U, sigma, _ = exact_svd(whitening.scaled(W, S), r)
    A, B = whitening.factors(W, U, sigma)
    assert A.shape == (r, W.shape[1]) and B.shape == (W.shape[0], r)
    return B @ A


def error(W: Tensor, X: Tensor, approximation: Tensor) -> float:
    return float((X @ (W - approximation).T).square().sum())


ROOTS: list[Callable[[Tensor], Tensor]] = [whitening.root, whitening.eigen_root]


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_squares_to_the_moment(root: Callable[[Tensor], Tensor]) -> None:
    _, X = drawn(7, 9, 40)
    S = root(X.T @ X)
    torch.testing.assert_close(S @ S.T, X.T @ X, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("m", "n"), [(7, 12), (12, 7), (9, 9)])
def test_the_product_does_not_depend_on_the_root(m: int, n: int) -> None:
    W, X = drawn(m, n, 60)
    one, two = (product(W, root(X.T @ X), 4) for root in ROOTS)
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("m", "n"), [(7, 12), (12, 7)])
def test_the_error_is_the_sum_of_the_dropped_singular_values(m: int, n: int) -> None:
    W, X = drawn(m, n, 60)
    S = whitening.root(X.T @ X)
    dropped = torch.linalg.svdvals(W @ S)[3:].square().sum()
    assert error(W, X, product(W, S, 3)) == pytest.approx(float(dropped), rel=1e-5)


@pytest.mark.parametrize("tokens", [5, 11, 80])
def test_no_other_product_has_less_error_on_the_data(tokens: int) -> None:
    for m, n in ((8, 20), (20, 8), (13, 13)):
        W, X = drawn(m, n, tokens)
        magnitude = whitening.diagonal_root(X.abs().mean(0), 0.5)
        for r in (1, 4, 7):
            best = error(W, X, product(W, whitening.root(X.T @ X), r))
            others = [error(W, X, product(W, S, r)) for S in (magnitude, None)]
            damped = 1e-7 * float(W.square().sum() * X.square().sum())  # the damping's part, and float64's rounding
            assert best <= min(others) + damped


@pytest.mark.parametrize("tokens", [0, 3, 60])
def test_full_rank_is_exact_even_for_singular_data(tokens: int) -> None:
    for m, n in ((8, 12), (12, 8)):
        W, X = drawn(m, n, tokens)
        torch.testing.assert_close(product(W, whitening.root(X.T @ X), 8), W, rtol=1e-6, atol=1e-6)


def test_singular_data_give_finite_factors_of_ordinary_size() -> None:
    W, X = (t.float() for t in drawn(10, 30, 6))
    U, S, _ = exact_svd(whitening.scaled(W, whitening.root(X.T @ X)), 9)
    A, B = whitening.factors(W, U, S)
    assert torch.isfinite(A).all() and torch.isfinite(B).all()
    assert float((X @ (W - B @ A).T).square().sum()) < 1e-6 * float((X @ W.T).square().sum())


def test_a_moment_that_rounding_left_indefinite_has_a_root() -> None:
    _, X = drawn(3, 8, 4)
    moment = X.T @ X - 1e-5 * torch.eye(8, dtype=torch.float64)
    assert torch.linalg.cholesky_ex(moment).info
    S = whitening.root(moment)
    torch.testing.assert_close(S @ S.T, X.T @ X, rtol=1e-3, atol=1e-3)


def test_zero_weights_stay_zero() -> None:
    assert not product(torch.zeros(4, 6), torch.ones(6), 2).any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_inputs_are_refused(broken: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        whitening.root(torch.full((3, 3), broken))
    with pytest.raises(ValueError, match="NaN or infinite"):
        whitening.diagonal_root(torch.full((3,), broken), 0.5)
