"""The base optimizers by name. A method gets `make` and may wrap what it returns.

Each optimizer owns a frozen dataclass of its settings; the learning rate comes from the training section, since methods
and schedules share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from lrexp.optim.group import Group
from lrexp.spec.convert import from_mapping, nearest
from lrexp.spec.errors import InputError


def _check_betas(betas: tuple[float, float]) -> None:
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas is {list(betas)}: both lie in [0, 1)")


def _check_not_negative(name: str, value: float) -> None:
    if value < 0:
        raise ValueError(f"{name} is {value}: it is at least 0")


@dataclass(frozen=True)
class AdamSettings:
    """Settings of torch's Adam and AdamW, which differ in how weight decay acts."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_betas(self.betas)
        _check_not_negative("eps", self.eps)
        _check_not_negative("weight_decay", self.weight_decay)


@dataclass(frozen=True)
class SGDSettings:
    """Settings of torch's SGD."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_not_negative("momentum", self.momentum)
        _check_not_negative("weight_decay", self.weight_decay)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is true with momentum 0: it needs a momentum above 0")


OPTIMIZERS: dict[str, tuple[type[Optimizer], type]] = {
    "adamw": (torch.optim.AdamW, AdamSettings),
    "adam": (torch.optim.Adam, AdamSettings),
    "sgd": (torch.optim.SGD, SGDSettings),
}


def make_optimizer(optimizer: Mapping[str, Any], learning_rate: float) -> Callable[[list[Group]], Optimizer]:
    """A function from groups to the spec's optimizer.

    `optimizer` is the section of the spec: a name and its settings. A group without weight decay gets 0; its learning
    rate is `learning_rate` times its multiplier, kept as "base_lr" for the schedule. Raises InputError for a wrong name
    or setting.
    """
    name = optimizer["name"]
    if name not in OPTIMIZERS:
        raise InputError(
            f"optimizer={name}: unknown optimizer. {nearest(name, OPTIMIZERS)} Known: {', '.join(OPTIMIZERS)}."
        )
    cls, settings_class = OPTIMIZERS[name]
    settings = from_mapping(settings_class, {k: v for k, v in optimizer.items() if k != "name"}, "optimizer")

    def make(groups: list[Group]) -> Optimizer:
        keywords: dict[str, Any] = asdict(settings)
        param_groups = []
        for group in groups:
            rate = learning_rate * group.lr_multiplier
            decay = keywords["weight_decay"] if group.weight_decay else 0.0
            param_groups.append(
                {"params": list(group.parameters.values()), "lr": rate, "base_lr": rate, "weight_decay": decay}
            )
        param_groups = param_groups or [{"params": [], "base_lr": learning_rate}]  # a run that trains nothing
        return cls(param_groups, lr=learning_rate, fused=True, **keywords)  # type: ignore[call-arg]

    return make
