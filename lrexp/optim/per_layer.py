"""Updates within the backward pass: each weight moves as soon as its gradient is whole, which is freed at once.

A full set of gradients never exists. With accumulation the gradients of earlier micro-batches are kept, and the weights
move in the backward pass of the last one. Lv et al. 2023 (LOMO), arXiv 2306.09782, section 3.1; used by GaLore, section
4.3. The official loops step in every micro-batch; here a step is a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor
from torch.optim import Optimizer

from lrexp.optim.group import Group


class PerLayer(Optimizer):
    """An optimizer for each parameter, all with the groups and the state of one over them all.

    `build` makes an optimizer from groups, as the run would without per-layer updates. Set `is_last` before the
    backward pass of a micro-batch; `step` moves what that pass has not reached. `reduce` sums a gradient over the
    processes of a run, in place.
    """

    def __init__(
        self,
        groups: list[Group],
        build: Callable[[list[Group]], Optimizer],
        reduce: Callable[[Tensor], None] = lambda gradient: None,
    ) -> None:
        whole = build(groups)
        self.__dict__.update(whole.__dict__)  # its groups, defaults and state are this one's
        self.is_last = False
        self.reduce = reduce
        self._own: dict[Tensor, Optimizer] = {}
        for index, group in enumerate(groups):
            for name, parameter in group.parameters.items():
                self._own[parameter] = build([replace(group, parameters={name: parameter})])
                self._own[parameter].state = self.state
                parameter.register_post_accumulate_grad_hook(partial(self._reached, index))

    def step(self, closure: None = None) -> None:
        """Moves the parameters whose gradients came in earlier micro-batches alone."""
        for index, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(index, parameter)

    def _reached(self, index: int, parameter: Tensor) -> None:
        if self.is_last:
            self._move(index, parameter)

    def _move(self, index: int, parameter: Tensor) -> None:
        own = self._own[parameter]
        settings = {key: value for key, value in self.param_groups[index].items() if key != "params"}
        own.param_groups[0].update(settings)  # the rate of this step
        assert parameter.grad is not None
        self.reduce(parameter.grad)
        own.step()
        parameter.grad = None
