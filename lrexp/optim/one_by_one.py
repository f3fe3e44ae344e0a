"""The base of optimizers whose rule is written for one parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class OneByOne(Optimizer):
    """Subclasses give `move`. Their weight decay acts on the weight and is no part of the gradient."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults | {"decoupled_weight_decay": True})  # torch's own word for it

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad, group, self.state[parameter])

    def move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """One parameter's step, in place; `state` is empty at its first."""
        raise NotImplementedError
