"""The base optimizers by name. A method gets `make` and may wrap what it returns.

Each optimizer owns a frozen dataclass of its settings; the learning rate comes from the training section, since methods
and schedules share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from lrexp.optim.adafactor import Adafactor, AdafactorSettings
from lrexp.optim.adamw8bit import AdamW8bit, AdamW8bitSettings
from lrexp.optim.adamw_hf import AdamWHF, AdamWHFSettings
from lrexp.optim.group import Group
from lrexp.optim.settings import AdamSettings, check_not_negative
from lrexp.spec.convert import from_mapping, nearest
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class SGDSettings:
    """Settings of torch's SGD."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative("momentum", self.momentum)
        check_not_negative("weight_decay", self.weight_decay)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is true with momentum 0: it needs a momentum above 0")


@dataclass(frozen=True)
class Known:
    """One optimizer: its class, the dataclass of its settings, and keywords that are no settings."""

    cls: type[Optimizer]
    settings: type
    keywords: Mapping[str, Any] = field(default_factory=dict)


FUSED = {"fused": True}
OPTIMIZERS: dict[str, Known] = {
    "adamw": Known(torch.optim.AdamW, AdamSettings, FUSED),
    "adam": Known(torch.optim.Adam, AdamSettings, FUSED),
    "sgd": Known(torch.optim.SGD, SGDSettings, FUSED),
    "adamw_hf": Known(AdamWHF, AdamWHFSettings),
    "adamw8bit": Known(AdamW8bit, AdamW8bitSettings),
    "adafactor": Known(Adafactor, AdafactorSettings),
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
    known = OPTIMIZERS[name]
    settings = from_mapping(known.settings, {k: v for k, v in optimizer.items() if k != "name"}, "optimizer")

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
        return known.cls(param_groups, lr=learning_rate, **known.keywords, **keywords)  # type: ignore[call-arg]

    return make
