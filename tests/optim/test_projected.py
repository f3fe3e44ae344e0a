"""The projected optimizer: through an identity it is its base, and what it holds is what the formula says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrexp.engine.pack import tensors_in
from lrexp.optim.build import OPTIMIZERS, make_optimizer
from lrexp.optim.group import Group
from lrexp.optim.per_layer import PerLayer
from lrexp.optim.projected import Projected
from lrexp.optim.projector import Basis, Kept, ProjType, SubspaceProjector, side_of

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "adamw8bit": {"min_8bit_size": 40},
    "adafactor": {"beta1": 0.8, "scale_parameter": True},
}


class Identity:
    """Projects nothing away: whatever the base does to a weight has to come out."""

    def refresh(self, kept: Kept, gradient: Tensor, step: int) -> None:
        kept["seen"] = step

    def project(self, kept: Kept, tensor: Tensor) -> Tensor:
        return tensor.clone()

    def lift(self, kept: Kept, weight: Tensor, move: Tensor, beta: float) -> None:
        weight.mul_(beta).add_(move)


def basis(svd: str = "exact") -> Basis:
    return Basis(svd, 3, 4, "canonical", lambda step: torch.Generator().manual_seed(step))  # type: ignore[arg-type]


def subspace(shape: tuple[int, ...], rank: int, proj_type: ProjType = "std", gap: int = 2) -> SubspaceProjector:
    return SubspaceProjector(shape, rank, gap, 1.0, proj_type, basis())


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"tall": (12, 7), "wide": (6, 20), "vector": (9,), "still": (3, 3)}
    return {name: nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for name, s in shapes.items()}


def feed(optimizer: Any, held: dict[str, nn.Parameter], steps: int = 5) -> None:
    """The same gradients to all but `still`, whose gradient is None."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * (1 - step / 10)  # a schedule
        for name, parameter in held.items():
            if name != "still":
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()
        assert held["tall"].grad is not None, "a step leaves the gradients"


def groups(held: dict[str, nn.Parameter]) -> list[Group]:
    vectors = {"vector": held["vector"]}
    return [Group({n: p for n, p in held.items() if n not in vectors}), Group(vectors, weight_decay=False)]


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_through_an_identity_every_base_does_what_it_does_alone(name: str, decay: float) -> None:
    section = {"name": name, "weight_decay": decay, **SETTINGS.get(name, {})}
    alone, projected = parameters(), parameters()
    feed(make_optimizer(section, 0.05)(groups(alone)), alone)
    identities = {"tall": Identity(), "wide": Identity()}
    feed(Projected(groups(projected), make_optimizer(section, 0.05), identities), projected)
    for key in alone:
        torch.testing.assert_close(projected[key], alone[key], rtol=1e-5, atol=1e-6, msg=key)
    assert torch.equal(alone["vector"], projected["vector"])


@pytest.mark.parametrize("name", ["sgd", "adamw_hf"])
def test_full_rank_equals_the_dense_update_for_a_base_without_preferred_axes_alone(name: str) -> None:
    alone, projected = parameters(), parameters()
    make = make_optimizer({"name": name, "weight_decay": 0.1}, 0.05)
    feed(make(groups(alone)), alone)
    feed(Projected(groups(projected), make, {"tall": subspace((12, 7), 7), "wide": subspace((6, 20), 99)}), projected)
    for key in ("tall", "wide"):
        assert torch.allclose(projected[key], alone[key], atol=1e-5) == (name == "sgd")


@pytest.mark.parametrize("proj_type", ["std", "reverse_std", "left", "right", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(12, 7), (6, 20)])
def test_the_state_has_the_bytes_of_the_formula(proj_type: ProjType, dtype: torch.dtype, shape: Any) -> None:
    weight, r, (m, n) = nn.Parameter(torch.ones(shape, dtype=dtype)), 3, shape
    projector = subspace(shape, r, proj_type)
    optimizer = Projected([Group({"W": weight})], make_optimizer({"name": "adamw_hf"}, 0.1), {"W": projector})
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    optimizer.step()
    side = side_of(shape, proj_type)
    entries = {"left": r * m + 2 * r * n, "right": r * n + 2 * r * m, "full": r * (m + n) + 2 * r * r}[side]
    assert proj_type != "std" or entries == r * min(m, n) + 2 * r * max(m, n)
    held = list(tensors_in(dict(optimizer.state[weight])))
    assert sum(t.numel() * t.element_size() for t in held) == entries * weight.element_size()
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in held)


@pytest.mark.parametrize("proj_type", ["left", "right", "full"])
def test_the_moves_stay_in_the_subspace(proj_type: ProjType) -> None:
    held, r = parameters(), 2
    before = held["tall"].detach().clone()
    projector = subspace((12, 7), r, proj_type, gap=100)
    optimizer = Projected(groups(held), make_optimizer({"name": "adamw"}, 0.05), {"tall": projector})
    feed(optimizer, held)
    moved, kept = held["tall"].detach() - before, optimizer.state[held["tall"]]["projector"]
    assert torch.linalg.matrix_rank(moved, atol=1e-5) == r
    if "right" in kept:
        Q = kept["right"]
        torch.testing.assert_close(Q @ Q.T, torch.eye(r), rtol=0, atol=1e-5)
        torch.testing.assert_close(moved @ Q.T @ Q, moved, rtol=0, atol=1e-6)
    if "left" in kept:
        torch.testing.assert_close(kept["left"] @ (kept["left"].T @ moved), moved, rtol=0, atol=1e-6)


class Flipped(SubspaceProjector):
    """With the other sign of every second vector of the first projector."""

    def refresh(self, kept: Kept, gradient: Tensor, step: int) -> None:
        super().refresh(kept, gradient, step)
        if step == 0:
            kept["right"][::2] *= -1


def test_a_sign_at_the_start_matters_from_the_first_refresh_on() -> None:
    weights = {}
    for cls in (SubspaceProjector, Flipped):
        for steps in (3, 4):
            held = parameters()
            projector = cls((12, 7), 4, 3, 0.25, "std", basis())
            feed(Projected(groups(held), make_optimizer({"name": "adamw"}, 0.05), {"tall": projector}), held, steps)
            weights[cls, steps] = held["tall"].detach()
    torch.testing.assert_close(weights[SubspaceProjector, 3], weights[Flipped, 3], rtol=0, atol=1e-6)
    assert (weights[SubspaceProjector, 4] - weights[Flipped, 4]).abs().max() > 1e-4


def test_a_transposed_layout_and_a_convolution_are_the_same_matrix() -> None:
    generator = torch.Generator().manual_seed(3)
    W, G = (torch.randn(9, 12, generator=generator) for _ in range(2))
    make, found = make_optimizer({"name": "adamw", "weight_decay": 0.1}, 0.1), []
    for shape, transposed in (((9, 12), False), ((12, 9), True), ((9, 3, 2, 2), False)):
        weight, gradient = ((t.T if transposed else t).contiguous().view(shape) for t in (W.clone(), G))
        weight, cls = nn.Parameter(weight), SubspaceProjector
        projector = cls(shape, 3, 2, 0.5, "std", basis("subspace"), is_transposed=transposed)
        optimizer = Projected([Group({"W": weight})], make, {"W": projector})
        for _ in range(3):
            weight.grad = gradient.clone()
            optimizer.step()
        found.append(weight.detach().T if transposed else weight.detach().flatten(1))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


def test_ties_go_right_and_reverse_is_the_other_side() -> None:
    assert [side_of(s, "std") for s in ((5, 5), (6, 5), (5, 6))] == ["right", "right", "left"]
    assert [side_of(s, "reverse_std") for s in ((5, 5), (6, 5), (5, 6))] == ["left", "left", "right"]
    assert {side_of((5, 6), side) for side in ("left", "right", "full")} == {"left", "right", "full"}


def test_per_layer_and_whole_hold_the_same_state() -> None:
    states = []
    for wrap in (False, True):
        held = {k: p for k, p in parameters().items() if k != "still"}
        make = make_optimizer({"name": "adamw8bit", "min_8bit_size": 20}, 0.05)

        def build(of: list[Group], make: Any = make) -> Projected:
            return Projected(of, make, {"tall": subspace((12, 7), 3), "wide": subspace((6, 20), 3)})

        both = [Group({n: held[n] for n in ("tall", "wide")}), Group({"vector": held["vector"]})]
        optimizer = PerLayer(both, build) if wrap else build(both)
        for step in range(4):
            if isinstance(optimizer, PerLayer):
                optimizer.is_last = True
            sum((p * torch.full_like(p, 0.1 + step)).square().sum() for p in held.values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
        states.append([held["tall"].detach(), *tensors_in([dict(optimizer.state[p]) for p in held.values()])])
    assert len(states[0]) > 10
    assert all(torch.equal(one, two) for one, two in zip(*states, strict=True))


def test_what_the_last_pass_does_not_reach_moves_with_the_step() -> None:
    """A parameter with a gradient from an earlier micro-batch alone, beside one of the last."""

    def trained(build_per_layer: bool) -> list[Tensor]:
        a, b = (nn.Parameter(torch.full((3,), value)) for value in (1.0, 2.0))
        groups = [Group({"a": a, "b": b})]
        make = make_optimizer({"name": "adamw"}, 0.1)
        optimizer = PerLayer(groups, make) if build_per_layer else make(groups)
        for _ in range(2):
            for is_last, loss in ((False, lambda: (a * b).sum()), (True, lambda: a.square().sum())):
                if isinstance(optimizer, PerLayer):
                    optimizer.is_last = is_last
                loss().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [a.detach(), b.detach()]

    for one, other in zip(trained(True), trained(False), strict=True):
        assert torch.equal(one, other) and not torch.equal(one, torch.full((3,), 1.0))
