"""The transform by matrix products equals the matrix that defines it, in every layout and by every way through it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lrexp.linalg import hadamard
from lrexp.linalg.hadamard import hadamard_transform, transform_


def sylvester(L: int) -> Tensor:
    index = torch.arange(L)
    bits = (index[:, None] & index[None, :]).to(torch.int64)
    parity = torch.zeros_like(bits)
    while bits.any():
        parity ^= bits & 1
        bits >>= 1
    return (1 - 2 * parity).double()


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("bits", range(12))
def test_it_is_the_matrix(bits: int) -> None:
    x = drawn(3, 2**bits)
    torch.testing.assert_close(hadamard_transform(x), x @ sylvester(2**bits), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [1, 2, 8, 32, 2048])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_blocks_change_nothing(block: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = drawn(rows, 512)
    expected = x @ sylvester(512)
    monkeypatch.setattr(hadamard, "BLOCK", max(block, 16))  # a block holds a column of every pass
    hadamard._own.__dict__.clear()
    torch.testing.assert_close(transform_(x.clone()), expected, rtol=1e-12, atol=1e-12)
    hadamard._own.__dict__.clear()


@pytest.mark.parametrize("dim", [0, 1, 2, -2])
def test_any_axis_and_the_input_stays(dim: int) -> None:
    x = drawn(4, 8, 16)
    kept = x.clone()
    y = hadamard_transform(x, dim)
    torch.testing.assert_close(y, torch.movedim(x.movedim(dim, -1) @ sylvester(x.shape[dim]), -1, dim))
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_twice_is_length_times(dtype: torch.dtype, error: float) -> None:
    x = drawn(2**14, dtype=dtype)
    back = hadamard_transform(hadamard_transform(x)) / 2**14
    assert back.dtype == dtype
    assert (back.double() - x.double()).abs().max() / x.double().abs().max() < error


def test_half_precision_is_computed_in_float32() -> None:
    x = drawn(4096, dtype=torch.bfloat16)
    assert torch.equal(hadamard_transform(x), hadamard_transform(x.float()).to(torch.bfloat16))


def test_it_works_after_inference_and_within() -> None:
    hadamard._own.__dict__.clear()
    with torch.inference_mode():
        inside = hadamard_transform(drawn(64))
    assert torch.equal(inside, hadamard_transform(drawn(64)))


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="the axis has 12 elements"):
        hadamard_transform(torch.zeros(12))
