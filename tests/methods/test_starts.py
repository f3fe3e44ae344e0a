"""OLoRA's start and LoRA+'s rates, and what every adapter takes of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.random import generator
from lrexp.methods import catalog
from lrexp.methods.adapters import olora
from lrexp.methods.base import Context, Decisions
from lrexp.optim.build import make_optimizer
from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError

CONTEXT = Context(0, 1, torch.device("cpu"), torch.float32, head=("head",))


def method(name: str, **values: Any) -> Any:
    cls = catalog.load(name)
    return cls(from_mapping(cls.Hyperparameters, {"r": 3, "target_modules": "layer", **values}, "method"))


def model() -> nn.ModuleDict:
    return nn.ModuleDict({"layer": nn.Linear(12, 20), "head": nn.Linear(20, 2)})


def test_olora_spans_the_first_columns_without_a_factorisation_of_all() -> None:
    W = torch.randn(20, 12, generator=generator(0, "w"), dtype=torch.float64)
    A, B = olora.start(W, 3)
    Q, R = torch.linalg.qr(W)
    signs = R.diagonal()[:3].sign()
    torch.testing.assert_close(B, Q[:, :3] * signs)
    torch.testing.assert_close(A, R[:3] * signs[:, None], atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(B.mT @ B, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [3.0, 12.0])
def test_olora_keeps_the_function(alpha: float) -> None:
    made = model()
    x = torch.randn(5, 12)
    expected = made["layer"](x)
    adapted = method("olora", lora_alpha=alpha).prepare(made, Decisions(), CONTEXT)
    torch.testing.assert_close(adapted["layer"](x), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(adapted["layer"], LoRALayer) and adapted["layer"].lora_B.abs().max() > 0.1


def test_olora_refuses_damaged_weights() -> None:
    made = model()
    made["layer"].weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="layer: the weight has NaN or infinity"):
        method("olora").prepare(made, Decisions(), CONTEXT)


@pytest.mark.parametrize(
    ("name", "values", "rates"),
    [
        ("lora_plus", {}, {"lora_A": 0.1, "lora_B": 1.6, "weight": 0.1, "bias": 0.1}),
        ("lora", {}, {"lora_A": 0.1, "lora_B": 0.1, "weight": 0.1, "bias": 0.1}),
        ("pissa", {"lr_multipliers": {"in": 2.0, "head": 0.5}}, {"lora_A": 0.2, "lora_B": 0.1, "weight": 0.05}),
        ("dora", {"lr_multipliers": {"scale": 3.0}}, {"lora_A": 0.1, "lora_magnitude": 0.3, "lora_B": 0.1}),
    ],
)
def test_rates_by_roles(name: str, values: dict[str, Any], rates: dict[str, float]) -> None:
    chosen = method(name, **values)
    groups = chosen.parameter_groups(chosen.prepare(model(), Decisions(), CONTEXT))
    optimizer = make_optimizer({"name": "sgd"}, 0.1)(groups)
    assert not [g for g in groups for n in g.parameters if n.endswith(("magnitude", "bias")) and g.weight_decay]
    found = {
        name.rpartition(".")[2]: settings["lr"]
        for group, settings in zip(groups, optimizer.param_groups, strict=True)
        for name in group.parameters
    }
    assert {key: pytest.approx(rate) for key, rate in rates.items()} == {key: found[key] for key in rates}


@pytest.mark.parametrize(
    ("multipliers", "said"),
    [({"B": 2.0}, "the roles are in, out, scale, head"), ({"out": 0.0}, "lr_multipliers out is 0.0")],
)
def test_roles_and_factors_are_checked(multipliers: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        method("lora_plus", lr_multipliers=multipliers)
