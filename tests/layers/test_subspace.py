"""Weights laid over any module's parameters: tied ones, copies, evaluations, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lrexp.layers.subspace import subspace_of
from lrexp.linalg.random import ambient
from lrexp.methods.base import Context, Decisions
from lrexp.methods.subspaces.intrinsic_dimension import IntrinsicDimension, IntrinsicDimensionHyperparameters
from lrexp.methods.subspaces.said import SAID, SAIDHyperparameters
from lrexp.spec.errors import InputError

CONTEXT = Context(0, 1, torch.device("cpu"), torch.float32)


class Tied(nn.Module):
    """An embedding whose weight is that of the output layer, and a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.unused = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.norm(self.embed(ids)).mean(1))


class Checkpointed(nn.Module):
    """Two layers, of which the first computes its activations again in the backward pass."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.one, self.two, self.again = nn.Linear(6, 9), nn.Linear(9, 4), again

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(lambda v: torch.tanh(self.one(v)), x, use_reentrant=False) if self.again else None
        return self.two(torch.tanh(self.one(x)) if h is None else h)


def mlp() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 4)), torch.randn(5, 1, 6, 6)


def lenet() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4)]
    return nn.Sequential(*layers), torch.randn(5, 1, 10, 10)


def tied() -> tuple[nn.Module, Tensor]:
    return Tied(), torch.arange(15).view(3, 5)


MODELS = (mlp, lenet, tied)


def made(of: Any, seed: int = 0) -> tuple[nn.Module, Tensor]:
    with ambient(seed):
        return of()


def moved(model: nn.Module, context: Context = CONTEXT, **values: Any) -> nn.Module:
    values = {"intrinsic_dimension": 15, **values}
    return IntrinsicDimension(IntrinsicDimensionHyperparameters(**values)).prepare(model, Decisions(), context)


def step(model: nn.Module, x: Tensor, rate: float = 0.5) -> Tensor:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@pytest.mark.parametrize("of", MODELS)
@pytest.mark.parametrize("scope", ["global", "per_tensor"])
@pytest.mark.parametrize("projection", ["dense", "sparse", "fastfood"])
def test_any_module_starts_at_its_base_trains_and_merges(of: Any, scope: str, projection: str) -> None:
    (base, x), (model, _) = made(of), made(of)
    names = {name: p.detach().clone() for name, p in base.named_parameters()}
    model = moved(model, scope=scope, projection=projection)
    assert torch.equal(model(x), base(x))
    losses = [step(model, x, 0.02) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["subspace_theta"]
    assert all(torch.equal(p, names[n]) for n, p in model.named_parameters() if n in names)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        plain = subspace_of(model).merge(model)
        assert torch.equal(plain(x), expected)
    assert dict(plain.named_parameters()).keys() == names.keys()
    assert list(plain.state_dict()) == list(base.state_dict()) and not hasattr(plain, "subspace")


@pytest.mark.parametrize("of", MODELS)
def test_gradients_are_those_of_the_weights_projected(of: Any) -> None:
    (base, x), (model, _) = made(of), made(of)
    model = moved(model.double(), Context(0, 1, torch.device("cpu"), torch.float64))
    x = x.double() if x.is_floating_point() else x
    model(x).square().mean().backward()
    base.double()(x).square().mean().backward()
    flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in base.parameters()])
    (projection, _), theta = subspace_of(model).placed[0], subspace_of(model).theta
    columns = torch.stack([projection.apply(e)[0] for e in torch.eye(15, dtype=torch.float64)])
    torch.testing.assert_close(theta.grad, columns @ flat, rtol=1e-10, atol=1e-12)


def test_a_tied_weight_is_one_at_all_of_its_places() -> None:
    model, ids = made(tied)
    model = moved(model)
    step(model, ids)
    model(ids)
    assert model.embed.weight is model.out.weight  # type: ignore[union-attr]
    assert model.embed.weight.grad_fn is not None  # type: ignore[union-attr]
    plain = subspace_of(model).merge(model)
    assert plain.embed.weight is plain.out.weight  # type: ignore[union-attr]


def test_a_copy_moves_on_its_own() -> None:
    model, x = made(mlp)
    model = moved(model)
    step(model, x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    model(x).sum().backward()
    before = twin(x).detach()
    step(model, x)
    assert torch.equal(twin(x), before) and not torch.equal(model(x), before)
    with torch.no_grad():
        expected = twin(x)
        assert torch.equal(subspace_of(twin).merge(twin)(x), expected)
    assert hasattr(model, "subspace")


def test_an_evaluation_computes_the_weights_again_only_for_another_theta(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made(mlp)
    model = moved(model)
    subspace = subspace_of(model)
    calls: list[int] = []
    own = subspace.map
    monkeypatch.setattr(subspace, "map", lambda: (calls.append(1), own())[1])
    with torch.inference_mode():
        first = model(x)
        assert torch.equal(model(x), first) and len(calls) == 1
    with torch.no_grad():
        subspace.theta.add_(0.1)
        assert not torch.equal(model(x), first) and len(calls) == 2
        subspace.theta.sub_(0.1)
    step(model, x)
    with torch.no_grad():
        after = model(x)
    assert not torch.equal(after, first) and len(calls) == 4


def test_activations_computed_again_see_the_same_weights() -> None:
    (kept, again), x = [Checkpointed(False), Checkpointed(True)], torch.linspace(-1, 1, 30).view(5, 6)
    again.load_state_dict(kept.state_dict())
    models = [moved(kept), moved(again)]
    for model in models:
        for _ in range(3):
            step(model, x)
    assert torch.equal(*(subspace_of(model).theta for model in models))


def test_autocast_leaves_the_weights_alone() -> None:
    model, x = made(mlp)
    model = moved(model, projection="dense")
    with torch.no_grad():
        subspace_of(model).theta.normal_(generator=torch.Generator().manual_seed(2))
        model(x)
        expected = [weight.clone() for weight in subspace_of(model).laid()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
    assert all(torch.equal(*pair) for pair in zip(subspace_of(model).laid(), expected, strict=True))


def test_what_is_frozen_in_the_model_stays_out() -> None:
    model, x = made(mlp)
    model[1].requires_grad_(False)  # type: ignore[index]
    model = moved(model)
    frozen = model[1].weight.clone()  # type: ignore[index]
    step(model, x)
    model(x)
    assert torch.equal(model[1].weight, frozen) and "weight" not in model[1].__dict__  # type: ignore[index]


def test_recurrent_layers_and_models_without_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="0: a recurrent layer"):
        moved(nn.Sequential(nn.LSTM(4, 4)))
    with pytest.raises(InputError, match="ReLU has no parameter"):
        moved(nn.ReLU())


@pytest.mark.parametrize("of", [mlp, lenet])
def test_the_whole_space_reaches_what_direct_training_does(of: Any) -> None:
    (base, x), (model, _) = made(of), made(of)
    D = sum(p.numel() for p in base.parameters())
    model = moved(model, intrinsic_dimension=D, projection="dense")
    target = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))
    for each in (base, model):
        optimizer = torch.optim.Adam([p for p in each.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            F.mse_loss(each(x), target).backward()
            optimizer.step()
        assert F.mse_loss(each(x), target) < 1e-2


def test_said_lays_scaled_offsets() -> None:
    (base, x), (model, _) = made(lenet), made(lenet)
    method = SAID(SAIDHyperparameters(intrinsic_dimension=30))
    model = method.prepare(model, Decisions(), CONTEXT)
    subspace = subspace_of(model)
    with torch.no_grad():
        subspace.theta.normal_(generator=torch.Generator().manual_seed(5))
        model(x)
        plain = [weight.clone() for weight in subspace.laid()]
        assert subspace.lam is not None
        subspace.lam.copy_(torch.arange(len(plain)))
        model(x)
        for i, (weight, one, start) in enumerate(zip(subspace.laid(), plain, base.parameters(), strict=True)):
            torch.testing.assert_close(weight, start + i * (one - start), rtol=1e-5, atol=1e-5)
