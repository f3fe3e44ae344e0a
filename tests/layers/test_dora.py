"""DoRA layers against the dense definition: V, its rows' norms without a gradient, magnitudes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lrexp.layers import dora
from lrexp.layers.dora import DORA, DoRALayer
from lrexp.layers.lora import lora_layer
from lrexp.layers.lora_layer import LoRASettings

BASES = {
    "linear": nn.Linear(8, 6), "no-bias": nn.Linear(8, 6, bias=False), "conv1d": Conv1D(6, 8),
    "conv": nn.Conv2d(4, 6, 3, padding=1), "embedding": nn.Embedding(10, 8), "slices": nn.Linear(8, 12),
}  # fmt: skip


def made(kind: str, settings: LoRASettings | None = None, is_trained: bool = True) -> tuple[DoRALayer, Tensor]:
    torch.manual_seed(0)
    slices = (True, False, True) if kind == "slices" else ()
    layer = lora_layer("layer", copy.deepcopy(BASES[kind]), settings or LoRASettings(3, 6.0), slices, kinds=DORA)
    assert isinstance(layer, DoRALayer)
    nn.init.normal_(layer.lora_A)
    layer.begin()
    if is_trained:
        nn.init.normal_(layer.lora_B, std=0.3)
        nn.init.uniform_(layer.lora_magnitude, 0.5, 2.0)
    x = {"conv": torch.randn(2, 4, 5, 5), "embedding": torch.arange(10).view(2, 5)}.get(kind, torch.randn(2, 5, 8))
    return layer, x


@pytest.mark.parametrize("kind", list(BASES))
def test_starts_as_the_base_and_merges_to_the_same_outputs(kind: str) -> None:
    layer, x = made(kind, is_trained=False)
    torch.testing.assert_close(layer(x), layer.base(x), rtol=1e-5, atol=1e-5)
    layer, x = made(kind)
    torch.testing.assert_close(layer(x), layer.merged()(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(layer(x), layer.base(x), atol=1e-2)


@pytest.mark.parametrize("kind", ["linear", "slices", "conv1d"])
def test_gradients_are_those_of_the_dense_weight_with_constant_norms(kind: str) -> None:
    layer, x = made(kind)
    trained = (layer.lora_A, layer.lora_B, layer.lora_magnitude)
    ours = torch.autograd.grad(layer(x).square().sum(), trained)
    A, B = layer.factors()
    W = torch.stack(layer.matrices())
    V = W + layer.scaling * B @ A
    gain = layer.lora_magnitude.view(layer.blocks, -1, 1) / V.detach().norm(dim=2, keepdim=True)
    change = layer.in_layout(gain * V - W)
    weight = layer.weight + change
    dense = F.linear(x, weight.t() if isinstance(layer.base, Conv1D) else weight, layer.bias)
    theirs = torch.autograd.grad(dense.square().sum(), trained)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_norms_are_those_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, _ = made("linear")
    V = layer.weight + layer.scaling * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer.norms(), V.norm(dim=1))
    monkeypatch.setattr(dora, "CHUNK", 16)  # two rows at a time
    torch.testing.assert_close(layer.norms(), V.norm(dim=1))


def test_norms_hold_within_a_step_of_training_alone() -> None:
    layer, x = made("linear")
    layer.hold()
    before = layer(x)
    with torch.no_grad():
        layer.lora_B *= 3
    held = layer(x)
    layer.eval()
    assert not torch.allclose(held, layer(x))
    layer.train().hold()
    torch.testing.assert_close(layer(x), layer.eval()(x))
    assert not torch.allclose(before, layer(x))


def test_dropout_acts_on_both_corrections(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made("linear", LoRASettings(3, 6.0, lora_dropout=0.5))
    dropped = x * torch.tensor([0.0, 2.0]).repeat(4)
    monkeypatch.setattr(F, "dropout", lambda *_: dropped)
    W, gain, low = layer.weight, layer.gain(), layer.scaling * layer.lora_B @ layer.lora_A
    expected = layer.base(x) + (gain - 1) * F.linear(dropped, W) + gain * F.linear(dropped, low)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_a_small_change_of_magnitude_survives_bf16() -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 64, bias=False).to(torch.bfloat16)
    layer = lora_layer("layer", base, LoRASettings(2, 4.0, dtype=torch.float32), kinds=DORA)
    assert isinstance(layer, DoRALayer)
    layer.begin()
    x = torch.randn(512, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.lora_magnitude *= 1.002  # half a step of bf16
    moved = (layer(x).float() / base(x).float()).median()
    assert layer.gain().sub(1.002).abs().max() < 1e-5 and moved >= 1.0
