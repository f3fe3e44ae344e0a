"""Principal components of batches: exact by the running covariance, forgetful by the published incremental SVD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lrexp.linalg.covariance import RunningCovariance
from lrexp.linalg.eigen import leading_eigenpairs
from lrexp.linalg.incremental_pca import IncrementalPCA
from lrexp.linalg.svd import exact_svd


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def data(rows: int = 400, n: int = 40, mean: float = 5.0) -> Tensor:
    """Rows of a decaying spectrum, far from zero."""
    return draw(rows, n) * torch.arange(1, n + 1).rsqrt() @ draw(n, n, seed=1) + mean


def principal(X: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Components and explained variance ratios by the definition, in float64."""
    X = X.double() - X.double().mean(0)
    _, S, Vh = torch.linalg.svd(X, full_matrices=False)
    return Vh[:k], S[:k].square() / S.square().sum()


def captured(one: Tensor, other: Tensor) -> float:
    """The share of the space of `other`'s rows that lies in that of `one`'s."""
    return float((one.double() @ other.double().mT).square().sum()) / len(other)


@pytest.mark.parametrize("n", [40, 7])
def test_a_running_covariance_gives_the_components_of_all_rows_whatever_the_order(n: int) -> None:
    X = data(n=n)
    found = []
    for order in (X, X.flip(0)):
        running = RunningCovariance(5, draw(n, min(n, 20), seed=2))
        for batch in order.split(64):
            running.update(batch.clone())
        running.finish()
        assert running.components is not None and running.seen == len(X)
        found.append(running)
    components, ratios = principal(X, 5)
    for running in found:
        assert captured(running.components, components) > 1 - 1e-6
        assert (running.components @ components.float().mT).diag().abs().min() > 1 - 1e-4
        torch.testing.assert_close(running.explained_variance_ratio.double(), ratios, rtol=1e-4, atol=1e-6)


def test_a_wide_covariance_is_cut_and_loses_less_than_incremental_components() -> None:
    X, k = draw(900, 200) * torch.arange(1, 201) ** -0.4 @ draw(200, 200, seed=1) + 3.0, 5
    running, pca = RunningCovariance(k, draw(200, 4 * k, seed=2)), IncrementalPCA(k, exact_svd)
    assert not running.is_whole
    for batch in X.split(50):
        running.update(batch.clone())
        pca.update(batch)
        assert running._held.numel() <= 4 * k * 200
    running.finish()
    components, ratios = principal(X, k)
    assert running.components is not None and pca.components is not None
    kept, forgotten = captured(running.components, components), captured(pca.components, components)
    assert kept > 0.99 > forgotten
    torch.testing.assert_close(running.explained_variance_ratio.double(), ratios, rtol=0.02, atol=0)


def test_one_batch_is_an_exact_decomposition() -> None:
    X = data()
    components, ratios = principal(X, 4)
    pca = IncrementalPCA(4, exact_svd)
    pca.update(X)
    assert pca.components is not None
    assert captured(pca.components, components) > 1 - 1e-6
    torch.testing.assert_close(pca.explained_variance_ratio, ratios, rtol=1e-4, atol=1e-6)


def test_incremental_components_are_exact_where_nothing_is_cut_off_and_close_where_something_is() -> None:
    low = draw(300, 6) @ draw(6, 40, seed=1) + 2.0
    for X, k, least in ((low, 6, 1 - 1e-5), (data(), 8, 0.9)):
        pca = IncrementalPCA(k, exact_svd)
        for batch in X.split(60):
            pca.update(batch)
        assert pca.components is not None
        assert captured(pca.components, principal(X, k)[0]) > least
        torch.testing.assert_close(pca.mean, X.double().mean(0))
        torch.testing.assert_close(pca.variance, X.double().var(0, correction=0), rtol=1e-5, atol=1e-6)


def test_a_batch_of_too_few_rows_is_passed_over() -> None:
    pca = IncrementalPCA(8, exact_svd)
    pca.update(data(7))
    assert pca.components is None and pca.seen == 0 and not pca.is_steady(0, 0.5)


def test_a_space_is_still_where_its_vectors_turn() -> None:
    """Two directions of equal variance, and batches that shift the weight between them."""
    n = 12
    running, single = RunningCovariance(2, draw(n, 8)), IncrementalPCA(2, exact_svd)
    for i in range(6):
        X = 0.01 * draw(200, n, seed=i)
        X[:, :2] += draw(200, 2, seed=10 + i) * torch.tensor([1.0, 1.0 + 0.02 * (-1) ** i])
        single.update(X)
        running.update(X)
    assert running.is_steady(2, 0.999)
    assert not single.is_steady(2, 0.999)


@pytest.mark.parametrize(("n", "p"), [(200, 12), (9, 6)])
def test_leading_eigenpairs_are_those_of_the_whole_decomposition(n: int, p: int) -> None:
    half = draw(n, n).double() * torch.arange(1, n + 1).rsqrt()
    C = half @ half.mT
    products = []

    def apply(Q: Tensor) -> Tensor:
        products.append(Q.shape[1])
        return C @ Q

    values, vectors = leading_eigenpairs(apply, draw(n, p, seed=4).double(), 5, 1e-8)
    exact, of = torch.linalg.eigh(C)
    torch.testing.assert_close(values, exact[-5:].flip(0), rtol=1e-8, atol=0)
    assert (vectors @ of[:, -5:].flip(1)).diag().abs().min() > 1 - 1e-8
    assert sum(products) <= n + max(p, n // 2)
