"""Eight bits, block by block: the maps, nearest codes, blocks that do not fill, and blocks of zeros."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lrexp.linalg.blockwise import dequantise, dynamic_map, quantise
from tests.verify.test_golden import GOLDEN


@pytest.mark.parametrize(("name", "is_signed"), [("qmap1", True), ("qmap2", False)])
def test_the_maps_are_those_of_bitsandbytes(name: str, is_signed: bool) -> None:
    stored = load_file(GOLDEN / "galore" / "adamw8bit_blockwise.safetensors")[name]
    torch.testing.assert_close(dynamic_map(is_signed), stored, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("shape", [(7,), (4, 8), (3, 5, 7)])
def test_every_entry_gets_the_nearest_value_of_its_block(is_signed: bool, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    tensor = tensor if is_signed else tensor.square()
    held = quantise(tensor, is_signed, 8)
    assert held.codes.shape == tensor.shape and held.codes.dtype == torch.uint8
    blocks = tensor.flatten().split(8)
    assert torch.equal(held.absmax, torch.stack([block.abs().max() for block in blocks]))
    values = dynamic_map(is_signed)
    for block, codes in zip(blocks, held.codes.flatten().split(8), strict=True):
        distances = (block[:, None] / block.abs().max() - values).abs()
        chosen = distances.gather(1, codes.long()[:, None])[:, 0]
        torch.testing.assert_close(chosen, distances.amin(1), rtol=0, atol=1e-7)
    error = (dequantise(held, is_signed, 8) - tensor).abs()
    assert error.max() <= 0.06 * tensor.abs().max()


def test_values_of_the_map_come_back_and_zeros_stay() -> None:
    values = dynamic_map(True)
    assert torch.equal(dequantise(quantise(values, True, 256), True, 256), values)
    assert not dequantise(quantise(torch.zeros(20), False, 8), False, 8).any()
