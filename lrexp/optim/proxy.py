"""A small parameter that an ordinary optimizer steps in place of a weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Proxy:
    """A transient parameter of one optimizer; it takes the shape of whatever is stepped next.

    Its values start at zero, so that after the step they are the move. An optimizer that looks at the values of a
    weight asks `weight_of`.
    """

    def __init__(self, device: torch.device) -> None:
        self.parameter = nn.Parameter(torch.empty(0, device=device))

    def hold(self, gradient: Tensor, weight: Tensor) -> None:
        """Zero values and this gradient, in place of `weight`."""
        self.parameter.data = torch.zeros_like(gradient)
        self.parameter.grad = gradient
        self.parameter.stands_for = weight  # type: ignore[attr-defined]

    def release(self) -> Tensor:
        """The values after the step; nothing is held any longer."""
        move = self.parameter.data
        self.parameter.grad = None
        self.parameter.data = move.new_empty(0)
        self.parameter.stands_for = None  # type: ignore[attr-defined]
        return move


def weight_of(parameter: Tensor) -> Tensor:
    """The weight whose values count: the parameter itself, or what it stands for."""
    stands_for = getattr(parameter, "stands_for", None)
    return parameter if stands_for is None else stands_for
