"""Ranks for a budget: the uniform rule, and the global one against a search of all allocations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lrexp.linalg.random import generator
from lrexp.linalg.ranks import global_ranks, saves, uniform_rank

SHAPES = [(12, 12), (16, 10), (9, 20)]


def spectra(seed: int) -> list[Tensor]:
    draw = generator(seed, "spectra")
    return [torch.rand(min(shape), generator=draw).sort(descending=True).values for shape in SHAPES]


def cost(ranks: list[int | None]) -> int:
    return sum(m * n if r is None else r * (m + n) for (m, n), r in zip(SHAPES, ranks, strict=True))


@pytest.mark.parametrize(("m", "n", "keep_ratio"), [(24, 16, 0.6), (14, 30, 0.8), (4096, 11008, 0.8), (7, 7, 0.3)])
def test_uniform_rank_is_the_highest_within_the_ratio(m: int, n: int, keep_ratio: float) -> None:
    r = uniform_rank(m, n, keep_ratio)
    assert r * (m + n) <= m * n * keep_ratio < (r + 1) * (m + n)


def test_global_ranks_stay_within_the_budget_and_use_it() -> None:
    for seed in range(5):
        for budget in range(79, 480, 13):
            ranks = global_ranks(spectra(seed), SHAPES, budget)
            assert cost(ranks) <= budget
            assert all(r is None or saves(*shape, r) for r, shape in zip(ranks, SHAPES, strict=True))
            assert all(r is None for r in ranks) or cost(ranks) > budget - 29  # no component is so large


def test_global_ranks_lose_least_where_every_component_costs_the_same() -> None:
    shapes = [(24, 24)] * 3
    draw = generator(0, "spectra")
    found = [torch.rand(12, generator=draw).sort(descending=True).values for _ in shapes]
    ranks = global_ranks(found, shapes, 9 * 48)

    def loss(chosen: tuple[int | None, ...]) -> float:
        return sum(float(S[r:].square().sum()) for S, r in zip(found, chosen, strict=True))

    every = [c for c in itertools.product(range(1, 8), repeat=3) if sum(c) == 9]
    assert loss(tuple(ranks)) == pytest.approx(min(map(loss, every)))


def test_a_layer_whose_product_saves_nothing_stays_dense_for_its_own_cost() -> None:
    found = [torch.full((12,), 100.0), torch.full((10,), 1e-3), torch.full((9,), 1e-3)]
    ranks = global_ranks(found, SHAPES, 144 + 3 * 26 + 29)
    assert ranks[0] is None and ranks[1:] == [3, 1]


def test_ties_go_to_the_first() -> None:
    assert global_ranks([torch.ones(8), torch.ones(8)], [(8, 8), (8, 8)], 3 * 16) == [2, 1]


def test_a_budget_below_rank_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget of 78 .* takes 79"):
        global_ranks(spectra(0), SHAPES, 78)
    assert global_ranks(spectra(0), SHAPES, 79) == [1, 1, 1]
