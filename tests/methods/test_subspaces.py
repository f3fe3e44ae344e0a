"""Intrinsic dimension, SAID and DID: what their papers say beyond what holds for every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrexp.layers.subspace import subspace_of
from lrexp.linalg.random import ambient
from lrexp.methods.base import Context, Decisions, Micro
from lrexp.methods.subspaces.intrinsic_dimension import (
    IntrinsicDimension,
    IntrinsicDimensionHyperparameters,
    SubspaceMethod,
)
from lrexp.methods.subspaces.said import SAID, SAIDHyperparameters
from lrexp.optim.build import make_optimizer
from lrexp.spec.errors import InputError

X = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CONTEXT = Context(0, 1, torch.device("cpu"), torch.float64)


def network(outputs: int = 3) -> nn.Sequential:
    with ambient(2):
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def prepared(method: SubspaceMethod, theta: bool = True, context: Context = CONTEXT) -> nn.Module:
    model = method.prepare(network(), Decisions(), context)
    if theta:
        with torch.no_grad():
            subspace_of(model).theta.normal_(generator=torch.Generator().manual_seed(3))
    return model


def said(**values: Any) -> SAID:
    return SAID(SAIDHyperparameters(**{"intrinsic_dimension": 16, **values}))


def intrinsic(**values: Any) -> IntrinsicDimension:
    return IntrinsicDimension(IntrinsicDimensionHyperparameters(**{"intrinsic_dimension": 12, **values}))


def theta_grad(model: nn.Module) -> Tensor:
    model(X).square().sum().backward()
    grad = subspace_of(model).theta.grad
    assert grad is not None
    return grad


def test_lambda_starts_without_a_gradient() -> None:
    model = prepared(said(), theta=False)
    theta_grad(model)
    lam = subspace_of(model).lam
    assert lam is not None and lam.grad is not None
    assert torch.equal(lam, torch.ones(4, dtype=torch.float64)) and not lam.grad.any()


def test_with_lambda_at_one_it_is_did() -> None:
    with_lam, without = prepared(said(intrinsic_dimension=16)), prepared(said(intrinsic_dimension=12, said=False))
    assert torch.equal(with_lam(X), without(X))
    torch.testing.assert_close(theta_grad(with_lam), theta_grad(without), rtol=1e-12, atol=1e-12)
    assert subspace_of(without).lam is None


@pytest.mark.parametrize("projection", ["dense", "sparse", "fastfood"])
def test_gradients_are_true(projection: Any) -> None:
    model = prepared(said(projection=projection))
    subspace = subspace_of(model)
    assert subspace.lam is not None
    with torch.no_grad():
        subspace.lam.copy_(torch.tensor([0.5, -1.0, 2.0, 0.3]))
    theta_grad(model)
    for parameter in (subspace.theta, subspace.lam):
        for i in range(len(parameter)):
            ends = []
            for move in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[i] += move
                    ends.append(float(model(X).square().sum()))
                    parameter[i] -= move
            assert parameter.grad is not None
            assert float(parameter.grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_the_published_gradient_weighs_each_tensor_by_its_length() -> None:
    true, published = prepared(said(said=False)), prepared(said(said=False, legacy_grad_scale=True))
    theta_grad(true)
    theta_grad(published)
    subspace = subspace_of(true)
    base = network()
    weights = [w.detach().clone().requires_grad_() for w in subspace.laid()]
    torch.func.functional_call(
        base, dict(zip(dict(base.named_parameters()), weights, strict=True)), (X,)
    ).square().sum().backward()
    parts = {}
    for projection, members in subspace.placed:
        back = projection.adjoint([weights[i].grad.flatten() for (i,) in members])  # type: ignore[union-attr]
        parts |= {i: (row, projection.L) for (i,), row in zip(members, back, strict=True)}  # type: ignore[attr-defined]
    torch.testing.assert_close(subspace.theta.grad, sum(row for row, _ in parts.values()))
    torch.testing.assert_close(subspace_of(published).theta.grad, sum(row / L for row, L in parts.values()))
    assert sorted(L for _, L in parts.values()) == [4, 8, 32, 64]


def test_the_penalty_is_on_the_matrices_as_they_are() -> None:
    method = intrinsic(l2=0.25)
    model = prepared(method)
    loss = method.loss(model, {}, lambda m, batch: m(X).sum(), Micro(0, True, 0.5))
    squares = sum(W.detach().square().sum() for W in subspace_of(model).laid() if W.ndim == 2)
    torch.testing.assert_close(loss.detach(), model(X).detach().sum() + 0.5 * 0.25 * squares)
    loss.backward()
    assert subspace_of(model).theta.grad is not None


def test_weight_decay_pulls_theta_to_zero_and_so_the_weights_to_their_start() -> None:
    for method in (intrinsic(), said()):
        model = prepared(method)
        make = make_optimizer({"name": "sgd", "weight_decay": 0.5}, 0.1)
        optimizer = method.build_optimizer(method.parameter_groups(model), make)
        trained = [p for p in model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trained]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for old, new in zip(before, trained, strict=True):
            torch.testing.assert_close(new.detach(), old * 0.95)


def test_too_small_and_too_large_a_dimension_is_refused_in_one_line() -> None:
    for method, words in (
        (said(intrinsic_dimension=4), "said=true spends one on each of the model's 4 tensors, so it is at least 5"),
        (said(intrinsic_dimension=84), "more than the 83 weights of the model: at most 83"),
        (intrinsic(intrinsic_dimension=84), "more than the 83 weights"),
    ):
        with pytest.raises(InputError, match=words) as error:
            prepared(method)
        assert "\n" not in str(error.value)
    prepared(said(intrinsic_dimension=5))
    prepared(said(intrinsic_dimension=4, said=False))


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        (IntrinsicDimensionHyperparameters, {"intrinsic_dimension": 0}, "intrinsic_dimension is 0"),
        (IntrinsicDimensionHyperparameters, {"l2": -0.1}, "l2 is -0.1"),
        (SAIDHyperparameters, {"intrinsic_dimension": 0}, "intrinsic_dimension is 0"),
        (SAIDHyperparameters, {"legacy_grad_scale": True, "projection": "dense"}, "it is fastfood's"),
    ],
)
def test_values_out_of_range_are_refused(cls: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cls(**values)


def test_metrics_tell_the_dimensions() -> None:
    for method, expected in (
        (intrinsic(), {"d": 12, "D": 83}),
        (intrinsic(scope="per_tensor", intrinsic_dimension=20), {"d": 20, "D": 83, "cut_tensors": 2}),
        (said(intrinsic_dimension=16), {"d": 16, "D": 83, "cut_tensors": 2}),
        (said(intrinsic_dimension=16, projection="dense"), {"d": 16, "D": 83}),
    ):
        prepared(method)
        assert method.metrics() == expected


def test_another_run_moves_in_the_subspace_that_was_decided() -> None:
    method = intrinsic()
    decisions = method.decide(network(), CONTEXT)
    assert decisions.values == {"seed": 0, "D": 83}
    elsewhere = Context(5, 1, torch.device("cpu"), torch.float64)
    one, two, fresh = (
        intrinsic().prepare(network(), given, context)
        for given, context in ((decisions, CONTEXT), (decisions, elsewhere), (Decisions(), elsewhere))
    )
    for model in (one, two, fresh):
        with torch.no_grad():
            subspace_of(model).theta.fill_(0.1)
    assert torch.equal(one(X), two(X)) and not torch.equal(one(X), fresh(X))


def test_a_subspace_over_all_weights_does_not_go_on_in_a_model_of_another_size() -> None:
    decisions = intrinsic().decide(network(), CONTEXT)
    with pytest.raises(InputError, match="lies in 83 weights and this model has 92") as error:
        intrinsic().prepare(network(4), decisions, CONTEXT)
    assert "\n" not in str(error.value)
    blocks = intrinsic(scope="per_tensor")
    blocks.prepare(network(4), blocks.decide(network(), CONTEXT), CONTEXT)


def test_the_head_keeps_its_start() -> None:
    context = Context(0, 1, torch.device("cpu"), torch.float64, head=("2",))
    model = prepared(intrinsic(), context=context)
    assert [name for name, _ in model.named_buffers()] == ["2.weight_start", "2.bias_start"]
    before = model(X).detach()
    with torch.no_grad():
        model.get_buffer("2.bias_start").add_(1.0)
    torch.testing.assert_close(model(X), before + 1.0)
    merged = intrinsic().finalize(model)
    torch.testing.assert_close(merged(X), before + 1.0)
    assert not list(merged.named_buffers())
