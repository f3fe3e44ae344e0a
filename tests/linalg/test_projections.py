"""Random subspaces: what defines each of them, columns of length 1, and a transpose that is one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lrexp.linalg import projections
from lrexp.linalg.fastfood import Fastfood, Pieces, draw_pieces, length
from lrexp.linalg.projections import Draw, Projection, over_all, per_tensor
from lrexp.linalg.random import generator
from tests.linalg.test_hadamard import sylvester

SIZES = {"w": 120, "b": 10, "v": 700}
KINDS = ("dense", "sparse", "fastfood")


def draw(seed: int = 0) -> Draw:
    return Draw(lambda name: generator(seed, name))


def matrix(projection: Projection, d: int) -> Tensor:
    """P (all parts one below the other, d)."""
    return torch.stack([torch.cat(projection.apply(e)) for e in torch.eye(d, dtype=torch.float64)], dim=1)


def gradients(projection: Projection) -> Sequence[Tensor]:
    drawn = torch.Generator().manual_seed(3)
    return [torch.randn(D, generator=drawn, dtype=torch.float64) for D in projection.sizes]


@pytest.mark.parametrize(("D", "d"), [(40, 7), (64, 64), (1, 1), (130, 3), (10, 25)])
def test_fastfood_is_what_defines_it(D: int, d: int) -> None:
    pieces = draw_pieces(D, d, generator(0, "x"))
    L, G = length(D), pieces.G.double()
    H = sylvester(L)
    B = torch.ones(L, dtype=torch.float64)
    B[: min(d, L)] = pieces.B.double()[:L]
    P = H @ torch.diag(G) @ torch.eye(L, dtype=torch.float64)[pieces.Pi.long()] @ H @ torch.diag(B)
    P = P[:D] / ((L * G.square().sum()).sqrt() * (D / L) ** 0.5)
    expected = torch.zeros(D, d, dtype=torch.float64)
    expected[:, : min(d, L)] = P[:, : min(d, L)]  # theta is padded to L, or cut to it
    torch.testing.assert_close(matrix(Fastfood.of([pieces], d), d), expected, rtol=1e-12, atol=1e-12)


def test_a_larger_fastfood_begins_with_the_smaller() -> None:
    small, large = (over_all("fastfood", SIZES, d, draw())[0].projection for d in (5, 40))
    torch.testing.assert_close(matrix(large, 40)[:, :5], matrix(small, 5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 12, 33])
def test_columns_have_length_one(kind: projections.Kind, d: int) -> None:
    P = matrix(over_all(kind, SIZES, d, draw())[0].projection, d)
    norms = P.square().sum(0).sqrt()
    assert P.shape == (830, d)
    off = 0.2 if kind == "fastfood" else 1e-6
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=off)
    cosines = (P.T @ P / norms / norms[:, None]).fill_diagonal_(0)
    assert cosines.abs().max() < 6 / 830**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_each_tensor_has_columns_of_length_one_of_its_own(kind: projections.Kind) -> None:
    placed = per_tensor(kind, SIZES, 4, draw())
    found = sorted(i for _, parts in placed for (i,) in parts)
    assert found == [0, 1, 2]
    for projection, _ in placed:
        for part in matrix(projection, 4).split(list(projection.sizes)):
            norms = part.square().sum(0).sqrt()
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=0.6 if kind == "fastfood" else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [over_all, per_tensor])
def test_the_adjoint_is_the_transpose(kind: projections.Kind, spread: object) -> None:
    for projection, _ in spread(kind, SIZES, 20, draw()):  # type: ignore[operator]
        gs = gradients(projection)
        blocks = matrix(projection, 20).split(list(projection.sizes))
        expected = torch.stack([block.T @ g for block, g in zip(blocks, gs, strict=True)])
        torch.testing.assert_close(projection.adjoint(gs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_all(kind: projections.Kind) -> None:
    one, two, other = (matrix(over_all(kind, SIZES, 9, draw(seed))[0].projection, 9) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_equal_lengths_go_together_and_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"a": 100, "b": 70, "c": 9, "d": 128}
    together = per_tensor("fastfood", sizes, 6, draw())
    assert [parts for _, parts in together] == [((0,), (1,), (3,)), ((2,),)]
    monkeypatch.setattr(projections, "GROUP", 1)
    alone = per_tensor("fastfood", sizes, 6, draw())
    assert len(alone) == 4
    first = torch.cat([matrix(p, 6) for p, _ in together])
    torch.testing.assert_close(first, torch.cat([matrix(p, 6) for p, _ in alone]), rtol=1e-12, atol=1e-12)


def test_dense_blocks_that_are_not_held_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "CHUNK", 50)
    held = over_all("dense", SIZES, 7, draw())[0].projection
    monkeypatch.setattr(projections, "HELD", 100)
    again = over_all("dense", SIZES, 7, draw())[0].projection
    assert isinstance(again, projections.Dense) and again.held is None
    assert torch.equal(matrix(again, 7), matrix(held, 7))
    assert torch.equal(again.adjoint(gradients(again)), held.adjoint(gradients(held)))


def test_sparse_blocks_have_their_share_of_entries() -> None:
    D, d = 10_000, 50
    entries = draw().entries("w", D, d)
    expected = d * D**0.5
    assert abs(len(entries.rows) - expected) < 5 * expected**0.5
    flat = entries.rows * d + entries.columns
    assert (flat.diff() > 0).all() and entries.columns.unique().numel() == d
    assert abs(float(entries.values.sign().mean())) < 5 / expected**0.5
    torch.testing.assert_close(entries.values.abs(), torch.full((len(flat),), (D**-0.5 * d) ** -0.5))


def test_a_tensor_of_one_element_is_full() -> None:
    assert draw().entries("w", 1, 6).columns.tolist() == list(range(6))


def test_given_signs_beyond_what_is_needed_change_nothing() -> None:
    drawn = draw_pieces(16, 16, generator(0, "x"))
    short = Pieces(16, drawn.B[:3], drawn.Pi, drawn.G)
    assert torch.equal(matrix(Fastfood.of([drawn], 3), 3), matrix(Fastfood.of([short], 3), 3))
