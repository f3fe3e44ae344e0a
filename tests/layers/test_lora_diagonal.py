"""A diagonal between the factors: every kind of layer, trained with them or between frozen ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.lora import lora_layer
from lrexp.layers.lora_layer import LoRALayer, LoRASettings, difference_to_original

SETTINGS = LoRASettings(r=3, lora_alpha=6.0, diagonal=True)
GENERATOR = torch.Generator().manual_seed(0)
BASES = {
    "linear": nn.Linear(8, 6), "conv1d": Conv1D(6, 8), "conv": nn.Conv2d(4, 6, 3, padding=1),
    "embedding": nn.Embedding(10, 8), "slices": nn.Linear(8, 12),
}  # fmt: skip


def made(kind: str) -> tuple[LoRALayer, Tensor]:
    layer = lora_layer("layer", BASES[kind], SETTINGS, (True, False, True) if kind == "slices" else ())
    x = {"conv": torch.randn(2, 4, 5, 5), "embedding": torch.arange(10).view(2, 5)}.get(kind, torch.randn(2, 5, 8))
    with torch.no_grad():
        for factor in (layer.lora_A, layer.lora_B, layer.lora_E):
            assert factor is not None
            factor.copy_(torch.randn(factor.shape, generator=GENERATOR))
    return layer, x


@pytest.mark.parametrize("kind", list(BASES))
def test_output_and_merged_weight_hold_the_diagonal(kind: str) -> None:
    layer, x = made(kind)
    A, B = layer.factors()
    assert layer.lora_E is not None
    E = torch.diag_embed(layer.lora_E.view(layer.blocks, -1))
    expected = layer.in_layout(layer.scaling * B @ E @ A)
    assert torch.allclose(layer.delta_weight(), expected, atol=1e-5)
    assert torch.allclose(layer(x), layer.merged()(x), atol=1e-4)


@pytest.mark.parametrize("kind", list(BASES))
def test_what_is_taken_from_the_base_comes_back(kind: str) -> None:
    layer, x = made(kind)
    before, original = layer.base(x), layer.weight.clone()
    layer.take_from_base()
    assert torch.allclose(layer(x), before, atol=1e-4)
    assert not torch.allclose(layer.weight, original, atol=1e-2)
    assert layer.lora_E is not None
    with torch.no_grad():
        layer.lora_E *= 2
    A, B, r, alpha = difference_to_original(layer)
    assert (r, alpha) == (6, 12.0)
    if kind == "linear":
        assert torch.allclose(original + alpha / r * B @ A, layer.merged().weight, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(BASES))
def test_between_frozen_factors_it_is_trained_alone(kind: str) -> None:
    layer, x = made(kind)
    assert layer.lora_E is not None
    layer.freeze_factors()
    with torch.no_grad():
        layer.lora_E.zero_()
    assert torch.equal(layer(x), layer.base(x))
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["lora_E"]
    assert {"lora_A", "lora_B"} <= set(dict(layer.named_buffers()))
    with torch.no_grad():
        layer.lora_E += 0.5
    assert torch.allclose(layer(x), layer.merged()(x), atol=1e-4)
    layer(x).square().sum().backward()
    assert layer.lora_E.grad is not None and layer.lora_E.grad.abs().min() > 0
