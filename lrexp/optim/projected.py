"""A projected optimizer: any base optimizer, stepping a small tensor in place of each weight that has a projector.

    R = project(G)      the base moves a proxy of R's shape, at 0, by its own rule: X      W <- W + back(X)

The base's state of a weight (its moments) is of R's size. Zhao et al. 2024 (GaLore), arXiv 2403.03507, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.optim.group import Group
from lrexp.optim.projector import Projector
from lrexp.optim.proxy import Proxy


class Projected(Optimizer):
    """`make` gives the base optimizer for groups; `projectors` are by parameter name. All other weights get the base.

    state[weight] of a projected weight is {"projector": what its projector keeps, "step": updates so far, "base": the
    base's state of the proxy}, of any other what the base makes it. The groups are those that the base has.
    Decoupled weight decay acts on the whole weight, within the product that lifts the move; the proxy is at 0, so a
    base that decays after its move shrinks the move itself, and one that decays before it leaves it as it is, as both
    do to a weight. Decay that is a part of the gradient is projected with it, but has no say in the projector.
    """

    def __init__(
        self, groups: list[Group], make: Callable[[list[Group]], Optimizer], projectors: Mapping[str, Projector]
    ) -> None:
        self._base = make(groups)
        super().__init__(self._base.param_groups, self._base.defaults)
        self._projectors: dict[Tensor, Projector] = {}
        self._inner: list[tuple[Optimizer, Proxy] | None] = []  # of each group: the base for one proxy at a time
        for group in groups:
            own = {p: projectors[name] for name, p in group.parameters.items() if name in projectors}
            self._projectors |= own
            self._inner.append(_inner(group, make, next(iter(own)).device) if own else None)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Moves every weight that has a gradient; the gradients stay."""
        aside: dict[nn.Parameter, Tensor] = {}
        for group, inner in zip(self.param_groups, self._inner, strict=False):
            for weight in group["params"]:
                if weight.grad is not None and weight in self._projectors:
                    assert inner is not None, "its group has projected weights"
                    self._move(weight, group, *inner)
                    aside[weight], weight.grad = weight.grad, None
        self._base.param_groups, self._base.state = self.param_groups, self.state
        self._base.step()
        for weight, gradient in aside.items():
            weight.grad = gradient

    def _move(self, weight: nn.Parameter, group: dict[str, Any], base: Optimizer, proxy: Proxy) -> None:
        projector, state, gradient = self._projectors[weight], self.state[weight], weight.grad
        assert gradient is not None, "a weight without a gradient does not move"
        if not state:
            state |= {"projector": {}, "step": 0, "base": {}}
        kept = state["projector"]
        projector.refresh(kept, gradient, state["step"])
        R = projector.project(kept, gradient)
        decay, is_decoupled = group["weight_decay"], group.get("decoupled_weight_decay", False)
        if decay and not is_decoupled:
            R = R.add(projector.project(kept, weight.detach()), alpha=decay)
        proxy.hold(R, weight)
        base.param_groups[0].update({key: value for key, value in group.items() if key != "params"})
        base.state[proxy.parameter] = state["base"]
        base.step()
        state["base"] = base.state.pop(proxy.parameter)
        rate = state["base"].get("rate", group["lr"])  # an optimizer that scales the rate by the weight says to what
        projector.lift(kept, weight.detach(), proxy.release(), 1 - rate * decay if is_decoupled else 1.0)
        state["step"] += 1


def _inner(group: Group, make: Callable[[list[Group]], Optimizer], device: torch.device) -> tuple[Optimizer, Proxy]:
    proxy = Proxy(device)
    return make([replace(group, parameters={"proxy": proxy.parameter})]), proxy
