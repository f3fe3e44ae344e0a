"""Supports: uniform, ascending, without a permutation of all positions; and their CSR forms."""

from __future__ import annotations

import pytest
import torch

from lrexp.linalg import sparse
from lrexp.linalg.random import generator


@pytest.mark.parametrize(("size", "count"), [(40, 0), (40, 1), (40, 19), (40, 21), (40, 40), (100_000, 3000)])
def test_a_support_is_ascending_and_of_its_size(size: int, count: int) -> None:
    support = sparse.draw_support(size, count, generator(0, "support"))
    assert len(support) == count and bool((support.diff() > 0).all())
    assert count == 0 or (support[0] >= 0 and support[-1] < size)
    assert torch.equal(support, sparse.draw_support(size, count, generator(0, "support")))


@pytest.mark.parametrize("count", [3, 8])
def test_every_position_is_as_likely(count: int) -> None:
    draw, rounds = generator(1, "uniform"), 4000
    hits = torch.zeros(10)
    for _ in range(rounds):
        hits[sparse.draw_support(10, count, draw).long()] += 1
    share = count / 10
    deviation = (hits / rounds - share).abs().max()
    assert deviation < 4.5 * (share * (1 - share) / rounds) ** 0.5


def test_a_sparse_support_is_drawn_without_a_list_of_all_positions() -> None:
    size = 10**13  # 80 TB as int64
    support = sparse.draw_support(size, 100, generator(0, "large"))
    assert support.dtype == torch.int64 and support.max() > 2**32


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (2**15, torch.int16),
        (2**15 + 1, torch.int32),
        (2**31, torch.int32),
        (2**31 + 1, torch.int64),
    ],
)
def test_the_smallest_integers_that_fit(size: int, dtype: torch.dtype) -> None:
    assert sparse.index_dtype(size) == dtype


@pytest.mark.parametrize("count", [-1, 11])
def test_a_count_that_does_not_fit_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}"):
        sparse.draw_support(10, count, generator(0, "support"))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 6), (256, 128)])
def test_csr_holds_the_values_at_the_support(shape: tuple[int, int]) -> None:
    size = shape[0] * shape[1]
    support = sparse.draw_support(size, size // 3, generator(0, "support"))
    values = torch.randn(len(support), generator=generator(0, "values"))
    dense = torch.zeros(size)
    dense[support.long()] = values
    assert torch.equal(sparse.csr(support, values, shape).to_dense(), dense.view(shape))
    assert torch.equal(sparse.transposed_csr(support, values, shape).to_dense(), dense.view(shape).t())
