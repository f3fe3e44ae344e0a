"""Weights in fewer bits: the libraries' own numbers, their size, the products, and the way back to plain layers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from lrexp.layers.lora_layer import LoRASettings
from lrexp.layers.lora_linear import LoRALinear
from lrexp.layers.quantised import QuantisedLinear, dequantise, quantise_base, stored_entries
from lrexp.layers.quantisers import quantise
from lrexp.linalg.random import ambient, generator
from lrexp.linalg.weight_only import Kind, blank

KINDS: list[Any] = [
    pytest.param(kind, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}"))
    for kind, package in (("int8", "torchao"), ("int4", "torchao"), ("nf4", "bitsandbytes"))
]
BITS = {"int8": 8 + 32 / 160, "int4": 4 + 40 / 32, "nf4": 4 + 32 / 64 + 16 * 32 / (96 * 160)}  # of float32 (96, 160)


def drawn(*shape: int, name: str = "W") -> Tensor:
    return torch.randn(shape, generator=generator(0, name))


def frozen(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.copy_(drawn(*p.shape, name=name))
    return layer.requires_grad_(False)


def nearest_nf4(W: Tensor, code: Tensor) -> Tensor:
    blocks = W.float().view(-1, 64)
    most = blocks.abs().amax(1, keepdim=True)
    return (code[((blocks / most)[..., None] - code).abs().argmin(-1)] * most).view(W.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_the_library_s_own(kind: Kind, dtype: torch.dtype) -> None:
    W = drawn(96, 160).to(dtype)
    stored = quantise(W, kind)
    if kind == "nf4":  # bitsandbytes on a CPU gives other numbers where blocks run over the ends of rows
        expected = nearest_nf4(W, stored.code)  # type: ignore[union-attr]
        torch.testing.assert_close(stored.dense(torch.float32), expected, rtol=1e-6, atol=0)
        return
    import torchao.quantization as ao
    from torchao.quantization.quant_primitives import MappingType

    int4 = ao.IntxWeightOnlyConfig(torch.int4, ao.PerGroup(32), MappingType.ASYMMETRIC)  # type: ignore[attr-defined]
    theirs = nn.Linear(160, 96, bias=False, device="meta")
    theirs.weight = nn.Parameter(W, requires_grad=False)
    ao.quantize_(theirs, int4 if kind == "int4" else ao.Int8WeightOnlyConfig(set_inductor_config=False))
    assert torch.equal(stored.dense(dtype), theirs.weight.dequantize())


@pytest.mark.parametrize("kind", KINDS)
def test_how_far_the_numbers_are_from_the_weight(kind: Kind) -> None:
    W = drawn(96, 160)
    error = (quantise(W, kind).dense(torch.float32) - W).norm() / W.norm()
    low, high = {"int8": (0.005, 0.009), "int4": (0.07, 0.09), "nf4": (0.08, 0.1)}[kind]  # of Gaussian numbers
    assert low < error < high


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_weight_takes(kind: Kind) -> None:
    W = drawn(96, 160)
    stored = [t for t in quantise(W, kind) if isinstance(t, Tensor)]
    assert sum(t.nbytes for t in stored) * 8 / W.numel() == pytest.approx(BITS[kind])
    with FakeTensorMode():
        shapes = [t for t in blank(torch.empty(96, 160), kind) if isinstance(t, Tensor)]
    assert [(t.shape, t.dtype) for t in shapes] == [(t.shape, t.dtype) for t in stored]


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 32), lambda: Conv1D(32, 64)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_what_a_dense_one_does(kind: Kind, make: Callable[[], Any]) -> None:
    model = nn.Sequential(frozen(make()))
    assert quantise_base(model, kind, ()) == (1, [])
    layer = model[0]
    assert isinstance(layer, QuantisedLinear)
    plain = layer.plain(torch.float32)
    assert type(plain) is type(make())
    assert torch.equal(plain.weight, layer.weight)  # type: ignore[arg-type]
    x = drawn(3, 5, 64, name="x").requires_grad_()
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)
    for each in (layer, plain):
        (g,) = torch.autograd.grad(each(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(g.square().sum(), x)
        each.found = g.detach(), second  # type: ignore[assignment]
    for ours, theirs in zip(layer.found, plain.found, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)


def kept_for_the_backward_pass(model: nn.Module) -> set[tuple[int, ...]]:
    shapes: set[tuple[int, ...]] = set()

    def keep(tensor: Tensor) -> Tensor:
        shapes.add(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(drawn(7, 64, name="x")).square().sum()
    loss.backward()
    return shapes


@pytest.mark.parametrize("kind", KINDS)
def test_no_dense_weight_is_kept_for_the_backward_pass(kind: Kind) -> None:
    adapted = LoRALinear(frozen(nn.Linear(64, 32)), LoRASettings(4, 8.0))  # type: ignore[arg-type]
    nn.init.normal_(adapted.lora_B, generator=generator(0, "B"))
    model = nn.Sequential(adapted, nn.GELU(), frozen(nn.Linear(32, 96)))
    dense = {(32, 64), (64, 32), (96, 32), (32, 96)}
    assert len(kept_for_the_backward_pass(model) & dense) >= 2
    quantise_base(model, kind, ())
    assert not kept_for_the_backward_pass(model) & dense


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_changes_the_dense_precision_alone(kind: Kind) -> None:
    model = nn.Sequential(frozen(nn.Linear(64, 32)))
    quantise_base(model, kind, ())
    weight = model[0].weight
    model.to(torch.bfloat16)
    assert model[0].weight.dtype == model[0].bias.dtype == model(drawn(2, 64).bfloat16()).dtype == torch.bfloat16
    assert torch.equal(model.float()[0].weight, weight)


def test_under_autocast_products_are_autocast_s() -> None:
    model = nn.Sequential(frozen(nn.Linear(64, 32)))
    quantise_base(model, "int8", ())
    x = drawn(2, 64).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32


def test_what_is_left_as_it_is_and_the_way_back() -> None:
    with ambient(0):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=16))
    model.requires_grad_(False).eval()
    names = {name: type(module) for name, module in model.named_modules()}
    kept = sum(p.numel() for p in model.parameters())
    model.transformer.h[0].mlp.c_fc.requires_grad_(True)
    assert quantise_base(model, "int4", ("attn.c_proj",)) == (2, [])
    found = [name for name, module in model.named_modules() if isinstance(module, QuantisedLinear)]
    assert found == ["transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj"]  # the output layer is tied
    assert sum(p.numel() for p in model.parameters()) + stored_entries(model) == kept
    ids = torch.arange(8)[None]
    before = model(ids).logits
    assert {name: type(module) for name, module in dequantise(model).named_modules()} == names
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=1e-5)


def test_rows_that_do_not_fit_stay() -> None:
    model = nn.Sequential(frozen(nn.Linear(64, 48)), frozen(nn.Linear(48, 32)))
    assert quantise_base(model, "int4", ()) == (1, ["1"])
    assert isinstance(model[0], QuantisedLinear) and type(model[1]) is nn.Linear
