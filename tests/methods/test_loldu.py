"""LoLDU: pivots move between frozen triangular factors, on the weight as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.peft_format import plain_lora
from lrexp.methods.adapters.loldu import LoLDU, LoLDUHyperparameters
from lrexp.methods.base import Context, Decisions
from lrexp.spec.errors import InputError

CONTEXT = Context(0, 1, torch.device("cpu"), torch.float64)
KINDS: list[nn.Module] = [
    layer.double() for layer in (nn.Linear(12, 20), Conv1D(20, 12), nn.Conv2d(4, 6, 3), nn.Embedding(10, 8))
]
STARTS = ("uniform", "normal", "constant", "zeros", "ones", "s_uniform", "s_normal")


def method(**values: Any) -> LoLDU:
    return LoLDU(LoLDUHyperparameters(**{"target_modules": "layer", **values}))


def prepared(base: nn.Module, **values: Any) -> LoRALayer:
    layer = method(**values).prepare(nn.ModuleDict({"layer": base}), Decisions(), CONTEXT)["layer"]  # type: ignore[index]
    assert isinstance(layer, LoRALayer)
    return layer


def change(layer: LoRALayer) -> nn.Parameter:
    assert layer.lora_E is not None
    return layer.lora_E


def inputs(base: nn.Module) -> Tensor:
    if isinstance(base, nn.Embedding):
        return torch.arange(10).view(2, 5)
    shape = (2, 4, 9, 9) if isinstance(base, nn.Conv2d) else (7, 12)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("r", [None, 3])
@pytest.mark.parametrize("base", KINDS, ids=lambda base: type(base).__name__)
def test_it_starts_at_the_base_and_merges(base: nn.Module, r: int | None, normalise: bool) -> None:
    x, original = inputs(base), base.weight.clone()  # type: ignore[operator]
    expected = base(x)
    layer = prepared(base, r=r, normalise=normalise, init_method="normal")
    assert torch.equal(layer(x), expected) and torch.equal(layer.weight, original)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["lora_E"]
    change(layer).data += 0.3
    assert not torch.allclose(layer(x), expected, atol=1e-3)
    assert torch.allclose(layer.merged()(x), layer(x), atol=1e-10)


@pytest.mark.parametrize("base", KINDS, ids=lambda base: type(base).__name__)
def test_all_pivots_at_zero_leave_nothing(base: nn.Module) -> None:
    layer = prepared(base, init_method="zeros", preserve=False)
    assert layer.merged().weight.abs().max() < 1e-12  # type: ignore[union-attr]


def test_gradient_and_pivots_are_those_of_the_factorisation() -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    P, L, R = torch.linalg.lu(base.weight.detach())
    D = R.diagonal()
    layer = prepared(base, r=5, lora_alpha=10.0, normalise=False)
    assert layer.scaling == 2.0
    x, g = inputs(base), torch.randn(7, 20, dtype=torch.float64)
    (layer(x) * g).sum().backward()
    expected = 2.0 * ((P @ L).mT @ g.mT @ x @ (R / D[:, None]).mT).diag()[:5]
    assert torch.allclose(change(layer).grad, expected, atol=1e-12)  # type: ignore[arg-type]
    zeros = prepared(base, r=5, normalise=False, init_method="zeros", preserve=False)
    assert torch.allclose(change(zeros).detach(), -D[:5])


@pytest.mark.parametrize("start", STARTS)
def test_a_start_that_is_not_preserved_changes_the_function(start: str) -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    x = inputs(base)
    first, again = (prepared(base, init_method=start, preserve=False) for _ in range(2))
    assert not torch.allclose(first(x), base(x), atol=1e-3)
    assert torch.equal(first(x), again(x))
    assert torch.allclose(first.merged()(x), first(x), atol=1e-10)


def test_draws_have_their_spread() -> None:
    d = torch.linspace(2.0, 6.0, 4000)
    draws = {kind: method().start(d, kind, torch.Generator().manual_seed(0)) for kind in STARTS}  # type: ignore[arg-type]
    assert draws["uniform"].abs().max() <= 2.0 and draws["uniform"].std() == pytest.approx(4 / 12**0.5, rel=0.05)
    assert draws["normal"].mean() == pytest.approx(4.0, rel=0.05)
    assert draws["normal"].std() == pytest.approx(float(d.std()), rel=0.05)
    assert draws["s_uniform"].std() == pytest.approx(2 / 12**0.5, rel=0.05)
    assert draws["s_normal"].std() == pytest.approx(1.0, rel=0.05)


def test_zero_pivots_are_refused_with_the_way_out() -> None:
    torch.manual_seed(0)  # of some weights the pivot is rounding, just large enough to divide by
    base = nn.Linear(12, 20, dtype=torch.float64)
    base.weight.data[:, 4] = base.weight.data[:, 1]
    with pytest.raises(InputError, match=r"layer: pivot 4 is .*: set method.normalise=true"):
        prepared(base, normalise=False)
    layer = prepared(base)
    change(layer).data += 0.1
    assert torch.isfinite(layer(inputs(base))).all()


def test_peft_holds_the_change_exactly() -> None:
    base = nn.Embedding(10, 8, dtype=torch.float64)
    layer = prepared(base, r=4)
    change(layer).data += 0.5
    plain = plain_lora("layer", layer)
    assert torch.allclose(plain.layer(base)(inputs(base)), layer(inputs(base)), atol=1e-10)


def test_wrong_values_are_refused() -> None:
    for values in ({"lora_alpha": 0.0}, {"r": 0}):
        with pytest.raises(ValueError, match="is 0"):
            LoLDUHyperparameters(**values)
