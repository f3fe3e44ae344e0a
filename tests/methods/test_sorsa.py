"""SORSA: the function is kept, the factors are the triplets, the penalty is weighted by the peak rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.lora_layer import LoRALayer, difference_to_original
from lrexp.methods.adapters.sorsa import SORSA, SORSAHyperparameters
from lrexp.methods.base import Context, Decisions, Training
from lrexp.optim.build import make_optimizer
from tests.conftest import Runner

CONTEXT = Context(0, 10, torch.device("cpu"), torch.float32)
SGD = {"name": "sgd"}


def linear(n: int = 12, m: int = 20, dtype: torch.dtype = torch.float32) -> nn.Linear:
    base = nn.Linear(n, m)
    base.weight.data = torch.randn(m, n, generator=torch.Generator().manual_seed(4))
    return base.to(dtype)


def prepared(*bases: nn.Module, context: Context = CONTEXT, **values: Any) -> tuple[SORSA, list[LoRALayer]]:
    model = nn.ModuleDict({f"layer{i}": base for i, base in enumerate(bases)})
    method = SORSA(SORSAHyperparameters(**{"target_modules": tuple(model), "r": 4, **values}))
    method.prepare(model, Decisions(), context)
    return method, list(method.adapters.values())


def disturbed(*bases: nn.Module, **values: Any) -> tuple[SORSA, list[LoRALayer], list[Tensor]]:
    """Factors off their start, with gradients, and what autograd gives for R."""
    generator = torch.Generator().manual_seed(1)
    method, layers = prepared(*bases, **values)
    for layer in layers:
        for p in (layer.lora_A, layer.lora_E, layer.lora_B):
            assert p is not None
            p.data += 0.1 * torch.randn(p.shape, generator=generator)
            p.grad = torch.randn(p.shape, generator=generator)
    power = 2 if values.get("penalty") == "squared" else 1
    R = torch.stack(
        [
            (gram - torch.eye(4)).norm() ** power
            for layer in layers
            for gram in (layer.lora_A @ layer.lora_A.mT, layer.lora_B.mT @ layer.lora_B)
        ]
    ).mean()
    factors = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
    return method, layers, list(torch.autograd.grad(R, factors))


def added(method: SORSA, layers: list[LoRALayer], learning_rate: float, now: float = 1.0) -> list[Tensor]:
    """What the hook adds to the gradients of all A and B, at a rate of the schedule."""
    model = nn.ModuleList(layers)
    optimizer = make_optimizer(SGD, learning_rate)(method.parameter_groups(model))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * now
    factors = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
    others = [layer.lora_E for layer in layers]
    before, kept = [p.grad.clone() for p in factors], [p.grad.clone() for p in others]  # type: ignore[union-attr]
    method.before_update(3, Training(optimizer, 3))
    assert all(torch.equal(p.grad, one) for p, one in zip(others, kept, strict=True))  # type: ignore[union-attr]
    return [p.grad - one for p, one in zip(factors, before, strict=True)]  # type: ignore[operator]


@pytest.mark.parametrize("values", [{}, {"lora_alpha": 6.0}, {"svd": "randomized", "svd_niter": 3}])
@pytest.mark.parametrize(
    "base", [linear(), Conv1D(20, 12), nn.Conv2d(4, 6, 3), nn.Embedding(10, 8)], ids=lambda b: type(b).__name__
)
def test_function_is_kept(base: nn.Module, values: dict[str, Any]) -> None:
    x = {nn.Conv2d: torch.randn(2, 4, 9, 9), nn.Embedding: torch.arange(10)}.get(type(base), torch.randn(7, 12))
    expected, original = base(x), base.weight.clone()  # type: ignore[operator]
    _, (layer,) = prepared(base, **values)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(layer.weight + layer.delta_weight(), original, atol=1e-5)
    assert not torch.allclose(layer.weight, original, atol=1e-2)


def test_factors_are_the_triplets_apart() -> None:
    base = linear()
    U, S, Vh = torch.linalg.svd(base.weight.detach().double(), full_matrices=False)
    method, (layer,) = prepared(base)
    assert layer.lora_E is not None and torch.allclose(layer.lora_E.double(), S[:4], atol=1e-5)
    assert torch.allclose((layer.lora_A.double() @ Vh[:4].mT).abs(), torch.eye(4, dtype=torch.float64), atol=1e-5)
    assert torch.allclose((layer.lora_B.double().mT @ U[:, :4]).abs(), torch.eye(4, dtype=torch.float64), atol=1e-5)
    assert method.metrics()["orthonormality_error"] < 1e-5
    assert prepared(linear(), r=12)[1][0].weight.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        ({"rank_pattern": {"layer1": 9}}, [1.0, 1.0]),
        ({"rank_pattern": {"layer1": 9}, "use_rslora": True}, [1.0, 1.0]),
        ({"lora_alpha": 8.0}, [2.0, 2.0]),
        ({"alpha_pattern": {"layer1": 6.0}}, [1.0, 1.5]),
    ],
)
def test_the_scale_is_one_where_no_alpha_is_given(values: dict[str, Any], scales: list[float]) -> None:
    assert [layer.scaling for layer in prepared(linear(), linear(), **values)[1]] == scales


@pytest.mark.parametrize("penalty", ["norm", "squared"])
def test_gamma_over_the_peak_rate_times_the_gradient_is_added(penalty: str) -> None:
    method, layers, gradients = disturbed(linear(), linear(), linear(16, 9), penalty=penalty)
    for found, gradient in zip(added(method, layers, 1e-3), gradients, strict=True):
        torch.testing.assert_close(found, 4e-4 / 1e-3 * gradient, rtol=1e-4, atol=1e-6)


def test_the_schedule_changes_nothing_and_gamma_goes_with_the_peak() -> None:
    bases = [(linear(), linear(16, 9)) for _ in range(3)]
    one, later, both = (
        added(*disturbed(*pair, gamma=gamma)[:2], rate, now)
        for pair, (gamma, rate, now) in zip(
            bases, [(1e-3, 1e-2, 1.0), (1e-3, 1e-2, 0.1), (4e-3, 4e-2, 1.0)], strict=True
        )
    )
    for first, second, third in zip(one, later, both, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, third, rtol=1e-5, atol=1e-7)


def test_a_role_s_own_rate_is_its_peak() -> None:
    plain = added(*disturbed(linear())[:2], 1e-3)
    faster = added(*disturbed(linear(), lr_multipliers={"out": 16.0})[:2], 1e-3)
    torch.testing.assert_close(faster[0], plain[0])
    torch.testing.assert_close(faster[1] * 16, plain[1], rtol=1e-4, atol=1e-5)


def test_without_gamma_the_gradients_stay() -> None:
    method, layers, _ = disturbed(linear(), gamma=0.0)
    assert not any(change.any() for change in added(method, layers, 1e-3))


def test_bf16_factors_leave_the_base_one_rounding() -> None:
    base = linear(dtype=torch.bfloat16)
    original = base.weight.clone()
    _, (layer,) = prepared(base, context=Context(0, 1, torch.device("cpu"), torch.bfloat16))
    assert layer.lora_A.dtype == torch.bfloat16 and layer.lora_E is not None
    product = (layer.lora_B.double() * layer.lora_E.double()) @ layer.lora_A.double()
    error = (layer.weight.double() + product - original.double()).abs()
    assert (error <= layer.weight.double().abs() * 2**-8 + 1e-9).all()


def test_trained_change_is_a_lora_on_the_original() -> None:
    base = linear()
    original = base.weight.clone()
    _, (layer,), _ = disturbed(base, lora_alpha=6.0)
    A, B, r, alpha = difference_to_original(layer)
    assert (r, alpha, A.shape, B.shape) == (8, 12.0, (8, 12), (20, 8))
    assert torch.allclose(layer.merged().weight, original + alpha / r * B @ A, atol=1e-5)  # type: ignore[arg-type]


def test_the_penalty_alone_brings_the_factors_back() -> None:
    method, layers, _ = disturbed(linear(), linear(16, 9), gamma=0.02)
    optimizer = make_optimizer(SGD, 0.01)(method.parameter_groups(nn.ModuleList(layers)))
    before = method.metrics()["orthonormality_error"]
    for step in range(150):
        optimizer.zero_grad()
        method.before_update(step, Training(optimizer, step))
        optimizer.step()
    assert method.metrics()["orthonormality_error"] < before / 10


def test_the_remainder_follows_from_the_kept_start(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engine.test_reload import again

    for precision in ("float32", "bf16"):
        taken: dict[str, Tensor] = {}
        initialise = SORSA.initialise

        def noted(
            self: Any, layer: Any, name: str, *more: Any, start: Any = initialise, taken: dict[str, Tensor] = taken
        ) -> None:
            start(self, layer, name, *more)
            taken[name] = layer.base.weight  # the last call, after the one on shapes, is the run's

        with monkeypatch.context() as patch:
            patch.setattr(SORSA, "initialise", noted)
            _, folder = run("method=sorsa", f"hardware.precision={precision}", to=precision)
        with monkeypatch.context() as patch:
            patch.setattr(SORSA, "triplets", lambda *_: pytest.fail("a new decomposition"))
            patch.setattr("lrexp.engine.reload.refuse_misfits", lambda found, *_: found)
            model = again(Path(folder))
        assert len(taken) == 4
        for name, weight in taken.items():
            assert torch.equal(model.get_submodule(name).base.weight, weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("values", [{"gamma": -1e-4}, {"gamma": float("inf")}, {"r": 0}, {"lora_alpha": 0.0}])
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is -|is 0|is inf"):
        SORSAHyperparameters(**values)
