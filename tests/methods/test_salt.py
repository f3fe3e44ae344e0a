"""SALT: top singular values scaled and shifted, a low-rank core among the rest, on the weight as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from lrexp.layers import decomposition
from lrexp.layers.peft_format import plain_lora
from lrexp.layers.salt import SALTLayer
from lrexp.methods.adapters.salt import SALT, SALTHyperparameters
from lrexp.methods.base import Context, Decisions, Micro
from lrexp.spec.errors import InputError

CONTEXT = Context(0, 1, torch.device("cpu"), torch.float64)
KINDS: list[nn.Module] = [
    layer.double() for layer in (nn.Linear(12, 20), Conv1D(20, 12), nn.Conv2d(4, 12, 3, stride=2))
]
RELUS = ("none", "all", "diag")


def method(**values: Any) -> SALT:
    return SALT(SALTHyperparameters(**{"target_modules": "layer", "r_lora": 3, "ratio": 0.4, **values}))


def prepared(base: nn.Module, context: Context = CONTEXT, **values: Any) -> SALTLayer:
    layer = method(**values).prepare(nn.ModuleDict({"layer": base}), Decisions(), context)["layer"]  # type: ignore[index]
    assert isinstance(layer, SALTLayer)
    return layer


def move(layer: SALTLayer, size: float = 0.5) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in (layer.scale, layer.shift, layer.X, layer.Y):
        parameter.data += size * torch.randn(parameter.shape, generator=generator).to(parameter)


def inputs(base: nn.Module) -> Tensor:
    shape = (2, 4, 9, 9) if isinstance(base, nn.Conv2d) else (7, 12)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def effective(layer: SALTLayer, relu: str) -> Tensor:
    """U f(core) Vt (m, n) by the equations."""
    U, S, Vt = torch.linalg.svd(layer.matrix().detach(), full_matrices=False)
    signs = (U * layer.U).sum(0).sign()
    p = layer.p
    core = torch.diag(S)
    core[:p, :p] = torch.diag((1 + layer.scale) * S[:p] + layer.shift)
    core[p:, p:] += layer.X @ layer.Y
    if relu == "all":
        core = core.relu()
    if relu == "diag":
        core = core.diagonal_scatter(core.diagonal().relu())
    return (U * signs) @ core @ (signs[:, None] * Vt)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("base", KINDS, ids=lambda base: type(base).__name__)
def test_it_starts_at_the_base_and_is_the_equations(base: nn.Module, relu: str) -> None:
    x, original = inputs(base), base.weight.clone()  # type: ignore[operator]
    expected = base(x)
    layer = prepared(base, relu=relu)
    assert torch.equal(layer(x), expected) and torch.equal(layer.weight, original)
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"scale", "shift", "X", "Y"}
    move(layer)
    W = effective(layer, relu)
    weight = W.t() if isinstance(base, Conv1D) else W.view(original.shape)
    assert torch.allclose(layer.merged().weight, weight, atol=1e-12)  # type: ignore[arg-type]
    assert torch.allclose(layer.merged()(x), layer(x), atol=1e-10)
    assert not torch.allclose(layer(x), expected, atol=1e-3)


@pytest.mark.parametrize("relu", RELUS)
def test_gradients_are_those_of_the_equations(relu: str) -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    layer = prepared(base, relu=relu)
    move(layer)
    x, g = inputs(base).requires_grad_(), torch.randn(7, 20, dtype=torch.float64)
    trained = (layer.scale, layer.shift, layer.X, layer.Y, x)
    found = torch.autograd.grad((layer(x) * g).sum(), trained)
    expected = torch.autograd.grad(((x @ effective(layer, relu).mT + base.bias) * g).sum(), trained)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_first_step_reaches_y_whole_without_a_relu_and_its_diagonal_alone_with() -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    x, g = inputs(base), torch.randn(7, 20, dtype=torch.float64)
    for relu in RELUS:
        layer = prepared(base, relu=relu)
        (layer(x) * g).sum().backward()
        G = (layer.U.mT @ g.mT @ x @ layer.Vt.mT)[layer.p :, layer.p :]
        assert layer.X.grad is not None and not layer.X.grad.any()
        expected = layer.X.mT @ (torch.diag(G.diag()) if relu == "all" else G)
        assert torch.allclose(layer.Y.grad, expected, atol=1e-12)  # type: ignore[arg-type]


def test_penalty_is_added_by_its_share() -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    salt = method(reg_multiplier=0.5)
    model = salt.prepare(nn.ModuleDict({"layer": base}), Decisions(), CONTEXT)
    layer = model["layer"]  # type: ignore[index]
    assert isinstance(layer, SALTLayer)

    def loss(share: float) -> Tensor:
        return salt.loss(model, {}, lambda model, batch: torch.zeros((), dtype=torch.float64), Micro(0, True, share))

    assert loss(1.0) == 0
    loss(1.0).backward()
    assert all(p.grad is None or not p.grad.any() for p in (layer.scale, layer.shift, layer.X, layer.Y))
    move(layer)
    top = layer.scale * layer.S[: layer.p] + layer.shift
    assert torch.allclose(loss(0.25), 0.125 * (top.norm() + (layer.X @ layer.Y).norm()))


def test_all_values_on_top_leave_scale_and_shift() -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    layer = prepared(base, ratio=1.0, r_lora=8)
    assert layer.p == 12 and layer.X.numel() == 0
    layer.shift.data += 0.5
    assert torch.allclose(torch.linalg.svdvals(layer.merged().weight), layer.S + 0.5)  # type: ignore[arg-type]
    assert layer.penalty().item() == pytest.approx(0.5 * 12**0.5)


def test_starts_differ_by_layer_and_stay_in_their_bounds() -> None:
    model = nn.ModuleDict({"q": nn.Linear(12, 12), "v": nn.Linear(12, 12)})
    adapted = method(target_modules=("q", "v")).prepare(model, Decisions(), CONTEXT)
    one, other = (adapted[name].X.detach() for name in ("q", "v"))  # type: ignore[index]
    assert not torch.equal(one, other) and one.abs().max() <= 2**0.5 and one.abs().max() > 1


def test_a_finished_run_is_not_decomposed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    layer = prepared(base)
    move(layer)
    tensors = {f"layer.{name}": t for name, t in layer.state_dict().items() if not name.startswith("base.")}
    monkeypatch.setattr(decomposition, "exact_svd", None)
    model = method().reload(nn.ModuleDict({"layer": layer.base}), Decisions(), CONTEXT, tensors)
    model.load_state_dict(tensors, strict=False)
    assert torch.equal(model["layer"](inputs(base)), layer(inputs(base)))  # type: ignore[index]


@pytest.mark.parametrize("relu", RELUS)
def test_bf16_autocast_and_shapes_alone(relu: str) -> None:
    context = Context(0, 1, torch.device("cpu"), torch.float32)
    layer = prepared(nn.Linear(12, 20), context, relu=relu)
    move(layer)
    x = inputs(layer.base).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), layer(x), atol=0.1)
    found.float().sum().backward()
    assert layer.Y.grad is not None and layer.Y.grad.dtype == torch.float32
    with FakeTensorMode():
        assert prepared(nn.Linear(12, 20), context, relu=relu)(torch.zeros(3, 12)).shape == (3, 20)


@pytest.mark.parametrize("base", KINDS, ids=lambda base: type(base).__name__)
def test_peft_holds_the_change_without_a_relu(base: nn.Module) -> None:
    layer = prepared(base)
    move(layer)
    plain = plain_lora("layer", layer)
    assert plain.r == plain.lora_alpha == 7
    assert torch.allclose(plain.layer(base)(inputs(base)), layer(inputs(base)), atol=1e-10)
    with pytest.raises(InputError, match="has no form"):
        plain_lora("layer", prepared(base, relu="diag"))


def test_wrong_values_are_refused() -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    with pytest.raises(InputError, match=r"8 singular values below the top 4: choose r_lora <= 8"):
        prepared(base, r_lora=9)
    with pytest.raises(InputError, match="in 2 groups"):
        prepared(nn.Conv2d(4, 12, 3, groups=2))
    with pytest.raises(InputError, match="is a Embedding"):
        prepared(nn.Embedding(10, 8))
    base.weight.data[3, 3] = float("nan")
    with pytest.raises(InputError, match="layer: the matrix has NaN"):
        prepared(base)
    for values in ({"ratio": 0.0}, {"ratio": 1.5}, {"r_lora": 0}, {"reg_multiplier": -1.0}):
        with pytest.raises(ValueError, match=r"is 0|is 1\.5|is -1"):
            SALTHyperparameters(**values)
