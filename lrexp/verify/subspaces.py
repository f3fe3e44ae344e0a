"""Drives a subspace method on the network of two layers that the cases of the subspaces share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.layers.subspace import Subspace, subspace_of
from lrexp.linalg.fastfood import Pieces
from lrexp.linalg.projections import Dense, Draw
from lrexp.methods.base import Context, Decisions, Group, Micro, Training
from lrexp.methods.subspaces.intrinsic_dimension import SubspaceMethod
from lrexp.optim.build import make_optimizer
from lrexp.spec.errors import InputError
from lrexp.verify.adapters import base_optimizer, inject, linear
from lrexp.verify.case import Case

NAMES = {"one.weight": "w1", "one.bias": "b1", "two.weight": "w2", "two.bias": "b2"}  # of parameters, in the case
Loss = Callable[[Tensor, Tensor], Tensor]


class GivenDraw(Draw):
    """The case's random pieces in place of drawn ones; a projection that it gives is taken as it is."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def fastfood(self, name: str, D: int, d: int) -> Pieces:
        """B, Pi and G of a parameter; the divisor that follows from them has to be the case's."""
        own = NAMES[name]
        pieces = Pieces(D, *(self.case[f"{piece}_{own}"] for piece in ("B", "Pi", "G")))
        divisor = self.case.get(f"divisor_{own}")
        if divisor is not None and not torch.allclose(pieces.divisor, divisor.double(), rtol=1e-5):
            raise InputError(f"divisor_{own} is {float(divisor)}, that of its G {float(pieces.divisor)}")
        return pieces

    def dense(self, name: str, D: int, d: int) -> Dense:
        """P of a parameter."""
        return Dense.of([self.case[f"P_{NAMES[name]}"].reshape(D, d)], torch.ones(d, dtype=torch.float64))


@dataclass
class Trained:
    """A model that is moved by a method on the case's data, and what was seen on the way."""

    method: SubspaceMethod
    model: nn.Module
    seen: dict[str, list[Tensor]]

    @property
    def subspace(self) -> Subspace:
        """theta, and lam where there is one."""
        return subspace_of(self.model)

    def output(self, x: Tensor) -> Tensor:
        """What the model gives as it is."""
        with torch.no_grad():
            return self.model(x)


def prepared(method: SubspaceMethod, case: Case) -> Trained:
    """tanh(x w1^T + b1) w2^T + b2, with biases where the case has them, as the method prepares it."""
    layers = [linear(case[f"w{i}_0"], case.get(f"b{i}_0")) for i in (1, 2)]
    model = nn.Sequential(OrderedDict(one=layers[0], tanh=nn.Tanh(), two=layers[1]))
    context = Context(seed=0, total_steps=len(case["X"]), device=torch.device("cpu"), dtype=case["w1_0"].dtype)
    method.draw = lambda context: GivenDraw(case)  # type: ignore[method-assign]
    return Trained(method, method.prepare(model, Decisions(), context), {"loss": []})


def train(trained: Trained, case: Case, loss_of: Loss, unused: nn.Parameter | None = None) -> None:
    """One step for each of X and g; `seen` gets loss, and of theta and lam the gradients and the values after it.

    `unused` is a parameter that the optimizer has beside them and that nothing depends on.
    """
    method, model, subspace = trained.method, trained.model, trained.subspace
    section, rate = base_optimizer(case.hyperparameters)
    groups = method.parameter_groups(model)
    if unused is not None:
        groups[0] = Group(groups[0].parameters | {"unused": unused}, groups[0].weight_decay)
    optimizer = method.build_optimizer(groups, make_optimizer(section, rate))
    watched: dict[str, Any] = {"theta": subspace.theta, "lam": subspace.lam, "unused": unused}
    model.train()
    for step, (x, g) in enumerate(zip(case["X"], case["g"], strict=True)):
        training = Training(optimizer, step)
        method.before_step(step)
        loss = method.loss(model, {"x": x, "g": g}, lambda m, b: loss_of(m(b["x"]), b["g"]), Micro(0, True, 1.0))
        loss.backward()
        if unused is not None:
            unused.grad = torch.zeros_like(unused)
        trained.seen["loss"].append(loss.detach())
        for name, parameter in watched.items():
            if parameter is not None:
                trained.seen.setdefault(f"grad_{name}", []).append(parameter.grad.clone())
        method.gradients_ready(step, training)
        method.before_update(step, training)
        optimizer.step()
        method.after_update(step, training)
        for name, parameter in watched.items():
            if parameter is not None:
                trained.seen.setdefault(name, []).append(parameter.detach().clone())
        optimizer.zero_grad(set_to_none=True)


def start_at(trained: Trained, theta: Tensor) -> None:
    """Puts theta in."""
    inject(trained.subspace.theta, theta)
