"""A small network with every kind of layer, trained for three steps of the life cycle: what does a setting change?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.linalg.random import ambient, generator
from lrexp.methods import catalog
from lrexp.methods.base import Batch, Context, Micro, Training
from lrexp.optim.build import make_optimizer
from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError

MOMENTUM = {"name": "sgd", "momentum": 0.5}  # a state that outlives a step: what turns it changes something


class Probe(nn.Module):
    """Token ids (batch, 10) to numbers (batch, 24) through an embedding, several linears, a Conv1D and a Conv2d."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(26, 24)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(24, 24) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(24, 40), nn.Linear(40, 24)
        self.mix = Conv1D(24, 24)
        self.conv = nn.Conv2d(2, 24, 3, padding=1)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, 10) to (batch, 24)."""
        x = self.embed(ids)  # (batch, 10, 24)
        x = x + self.o_proj(torch.tanh(self.q_proj(x) + self.k_proj(x)) * self.v_proj(x))
        x = x + self.down_proj(torch.relu(self.up_proj(self.mix(x))))
        image = x.unflatten(1, (2, 5))  # (batch, 2, 5, 24)
        return x.mean(1) + self.conv(image).mean((2, 3))


def probed(method: str, section: dict[str, Any]) -> dict[str, Tensor] | None:
    """All parameters and buffers after three steps, and the output; None where the setting is refused."""
    with ambient(3):
        model = Probe()
    cls = catalog.load(method)
    try:
        life = cls(from_mapping(cls.Hyperparameters, section, "method"))
        context = Context(0, 3, torch.device("cpu"), torch.float32, task_loss=task_loss, calibration=calibration)
        prepared = life.prepare(model, life.decide(model, context), context)
    except InputError:
        return None
    groups = life.parameter_groups(prepared)
    optimizer = life.build_optimizer(groups, make_optimizer(MOMENTUM, 0.1))
    ids = torch.randint(0, 26, (3, 10), generator=generator(0, "ids"))
    for step in range(3 if groups else 0):
        with ambient(step):
            one_step(life, prepared, optimizer, {"ids": ids}, step)
    state = {name: t.detach().clone() for name, t in prepared.state_dict().items()}
    return state | {"output": prepared.eval()(ids).detach()}  # a dropout would draw from a generator that nothing seeds


def task_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the squared outputs."""
    return model(batch["ids"]).square().sum()


def calibration(name: str, count: int, size: int) -> Iterator[Batch]:
    """Batches of token ids, the first three of which are not predicted."""
    for i in range(count):
        ids = torch.randint(0, 26, (size, 10), generator=generator(0, f"calibration/{name}", i))
        yield {"ids": ids, "labels": torch.where(torch.arange(10) < 3, -100, ids)}


def one_step(life: Any, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> None:
    """One step of the life cycle, as the engine takes it."""
    training = Training(optimizer, step)
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = group["base_lr"] * life.lr_multiplier(step, index)
    life.before_step(step)
    loss = life.loss(model, batch, task_loss, Micro(0, True, 1.0))
    loss.backward()
    life.gradients_ready(step, training)
    life.before_update(step, training)
    optimizer.step()
    life.after_update(step, training)
    optimizer.zero_grad()


def matters(method: str, section: dict[str, Any], key: str, values: list[Any]) -> bool:
    """Whether one of the values in place of the section's changes how the probe ends."""
    before = probed(method, section)
    return before is not None and any(differs(before, probed(method, section | {key: value})) for value in values)


def differs(one: dict[str, Tensor], two: dict[str, Tensor] | None) -> bool:
    """Whether both ran and ended otherwise."""
    return two is not None and (one.keys() != two.keys() or not all(same(one[name], two[name]) for name in one))


def same(one: Tensor, two: Tensor) -> bool:
    """Whether all entries are equal; one that is no number equals another."""
    return one.shape == two.shape and bool(((one == two) | ((one != one) & (two != two))).all())


def other_values(value: Any, annotation: Any) -> list[Any]:
    """Values that the key could have instead."""
    if get_origin(annotation) is Literal:
        return [v for v in get_args(annotation) if v != value]
    if value is None:
        return [5, 10_000] if int in get_args(annotation) else [3.0]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(1, value // 2), 1, 2]
    if isinstance(value, float):
        return [value + 0.25, value * 2, value / 2, value / 8]
    if isinstance(value, dict):
        return [
            {"q_proj": 3},
            {"out": 3.0, "scale": 3.0},
            {"r": 3},
        ]  # of a module, of a role, of another library's setting
    if isinstance(value, str) and annotation is str:
        return ["LORA"]  # a name of another library's
    if isinstance(value, list | tuple):
        return ["all-linear", ["conv"], ["embed"]]
    raise AssertionError(f"no other value known for {value!r} of {annotation}")
