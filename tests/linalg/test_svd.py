"""Laws of the singular triplets: exact to working precision, signs canonical, errors clear, fallbacks sound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lrexp.linalg import svd
from lrexp.linalg.svd import Triplets, canonical_rows, exact_svd, randomized_svd


def matrix(m: int, n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed)).to(dtype)


def omega(shape: tuple[int, int], r: int, oversampling: int) -> Tensor:
    return matrix(*svd.test_shape(shape, r, oversampling), seed=9)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13), (torch.bfloat16, 2e-6)]
)
def test_exact_triplets_are_the_leading_ones(shape: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    W = matrix(*shape, dtype)
    U, S, Vh = exact_svd(W, 5)
    assert U.dtype == S.dtype == Vh.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    U2, S2, Vh2 = torch.linalg.svd(W.double(), full_matrices=False)
    best = (U2[:, :5] * S2[:5]) @ Vh2[:5]
    assert torch.allclose(S.double(), S2[:5], rtol=tolerance * 10)
    assert ((U * S) @ Vh - best).norm() <= 10 * tolerance * best.norm()
    assert (U.mT @ U - torch.eye(5)).abs().max() <= 10 * tolerance
    assert (Vh @ Vh.mT - torch.eye(5)).abs().max() <= 10 * tolerance


def test_tiny_singular_values_do_not_spoil_orthonormality() -> None:
    left, right = torch.linalg.qr(matrix(20, 8)).Q, torch.linalg.qr(matrix(30, 8, seed=1)).Q
    W = (left * torch.logspace(0, -9, 8)) @ right.mT
    U, _, Vh = exact_svd(W)
    assert (U.mT @ U - torch.eye(20)).abs().max() < 1e-5
    assert (Vh @ Vh.mT - torch.eye(20)).abs().max() < 1e-5


def test_zero_matrix_has_zero_values() -> None:
    assert exact_svd(torch.zeros(4, 6), 2).S.tolist() == [0, 0]


@pytest.mark.parametrize("decompose", ["exact", "randomized"])
def test_signs_are_canonical(decompose: str) -> None:
    W = matrix(14, 22)
    for weight in (W, -W):
        found = exact_svd(weight, 6) if decompose == "exact" else randomized_svd(weight, 6, 2, 4, omega((14, 22), 6, 4))
        largest = found.Vh.gather(1, found.Vh.abs().argmax(1, keepdim=True))
        assert (largest > 0).all()


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
def test_randomized_is_the_written_procedure(shape: tuple[int, int]) -> None:
    W, test = matrix(*shape, torch.float64), omega(shape, 4, 0).double()
    C = W if shape[0] >= shape[1] else W.mT
    Q = torch.linalg.qr(C @ test).Q
    for _ in range(2):
        Q = torch.linalg.qr(C.mT @ Q).Q
        Q = torch.linalg.qr(C @ Q).Q
    U, S, Vh = torch.linalg.svd(Q.mT @ C, full_matrices=False)
    product = (Q @ U * S) @ Vh
    found = randomized_svd(W, 4, 2, 0, test)
    assert torch.allclose(found.S, S, rtol=1e-12)
    assert torch.allclose((found.U * found.S) @ found.Vh, product if C is W else product.mT, atol=1e-12)


def test_oversampling_brings_it_closer_to_the_best() -> None:
    W = matrix(60, 90)
    best = (W - reconstruct(exact_svd(W, 6))).norm()
    plain = (W - reconstruct(randomized_svd(W, 6, 1, 0, omega((60, 90), 6, 0)))).norm()
    wider = (W - reconstruct(randomized_svd(W, 6, 1, 12, omega((60, 90), 6, 12)))).norm()
    assert best <= wider < plain


def reconstruct(triplets: Triplets) -> Tensor:
    return (triplets.U * triplets.S) @ triplets.Vh


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_entries_are_refused(bad: float) -> None:
    W = matrix(5, 7)
    W[2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        exact_svd(W, 2)


def test_entries_whose_sum_overflows_are_not_refused() -> None:
    assert torch.isfinite(exact_svd(torch.full((6, 6), 2e37), 1).S).all()


@pytest.mark.parametrize("r", [0, 6])
def test_rank_out_of_range_is_refused(r: int) -> None:
    with pytest.raises(ValueError, match="at most 5"):
        exact_svd(matrix(5, 7), r)


def test_another_algorithm_is_taken_where_one_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")  # pyright: ignore[reportPrivateImportUsage]

    W = matrix(9, 13)
    expected = reconstruct(exact_svd(W, 3))
    monkeypatch.setattr(torch.linalg, "eigh", fail)
    assert torch.allclose(reconstruct(exact_svd(W, 3)), expected, atol=1e-5)
    monkeypatch.setattr(torch.linalg, "svd", fail)
    assert torch.allclose(reconstruct(exact_svd(W, 3)), expected, atol=1e-5)


def test_canonical_rows_have_their_largest_entry_positive() -> None:
    rows = torch.tensor([[0.1, -0.8], [0.9, -0.2]])
    assert torch.equal(canonical_rows(rows), torch.tensor([[-0.1, 0.8], [0.9, -0.2]]))
    assert torch.equal(canonical_rows(-rows), canonical_rows(rows))
