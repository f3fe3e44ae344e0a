"""One update of the weights, from its micro-batches to the optimizer's step: the same in a run and in a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.engine.gradients import clip
from lrexp.engine.precision import autocast
from lrexp.engine.state import Prepared
from lrexp.engine.team import ALONE, Team
from lrexp.linalg.random import seed_ambient, stream
from lrexp.methods.base import Batch, Context, Decisions, Method, Micro, Training
from lrexp.optim.build import make_optimizer
from lrexp.optim.group import Group
from lrexp.optim.per_layer import PerLayer
from lrexp.optim.schedule import multiplier
from lrexp.spec.errors import RunError
from lrexp.spec.run_spec import RunSpec
from lrexp.tasks.base import Task


def with_optimizer(
    spec: RunSpec, method: Method, model: nn.Module, decisions: Decisions, team: Team = ALONE
) -> Prepared:
    """A model that the method has prepared, and the optimizer that the spec and the method give it."""
    rate = spec.training.learning_rate
    assert rate is not None, "composition fills the learning rate"
    groups = method.parameter_groups(model)
    make = make_optimizer(spec.optimizer, rate)

    def build(groups: list[Group]) -> Optimizer:
        return method.build_optimizer(groups, make)

    if spec.training.per_layer_updates:
        optimizer: Optimizer = PerLayer(groups, build, team.sum_gradient)
    else:
        optimizer = build(groups)
    names = {p: name for group in groups for name, p in group.parameters.items()}
    return Prepared(method, model, decisions, optimizer, names)


class Update:
    """Moves a prepared model; calls the method's hooks in the order of `methods/base.py`."""

    def __init__(self, spec: RunSpec, task: Task, prepared: Prepared, context: Context, team: Team = ALONE) -> None:
        self.spec, self.task, self.context, self.team = spec, task, context, team
        self.method, self.model = prepared.method, prepared.model
        self.optimizer, self.names = prepared.optimizer, prepared.names
        self.autocast = autocast(spec.hardware.precision, context.device)

    def step(self, step: int, batches: Sequence[Batch], idle: Batch | None = None) -> tuple[float, float | None]:
        """One update by micro-batches on the CPU; gives the loss per target and the norm of the gradients.

        `idle` comes after them and counts for nothing: another process has a batch there. Raises RunError where one of
        the two is not finite: the weights have not moved.
        """
        self.method.before_step(step)
        training = Training(self.optimizer, step)
        self._set_rates(step)
        own = [(batch, self.task.targets(batch)) for batch in batches] + ([(idle, 0)] if idle is not None else [])
        device, team = self.context.device, self.team
        (total,) = team.total(sum(targets for _, targets in own), device=device)
        summed = torch.zeros((), dtype=torch.float64, device=device)
        for index, (batch, targets) in enumerate(own):
            micro = Micro(index * team.size + team.rank, index == len(own) - 1, targets / total)
            summed += self.backward(step, batch, micro, total)
        (loss,) = team.total(float(summed), device=device)
        if not isinstance(self.optimizer, PerLayer):
            team.sum_gradients(self.names)
        self.method.gradients_ready(step, training)
        norm = clip(self.names, self.spec.training.max_grad_norm)
        self._refuse_bad_numbers(step, loss, norm)
        self.method.before_update(step, training)
        self.optimizer.step()
        self.method.after_update(step, training)
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def backward(self, step: int, batch: Batch, micro: Micro, targets: float) -> Tensor:
        """Forward and backward pass of one micro-batch of a step with so many targets; gives its part of the loss."""

        def task_loss(model: nn.Module, batch: Batch) -> Tensor:
            return self.task.loss(model, batch) / targets

        batch = {name: tensor.to(self.context.device) for name, tensor in batch.items()}
        if isinstance(self.optimizer, PerLayer):
            self.optimizer.is_last = micro.is_last
        seed_ambient(stream(self.spec.seed, "dropout", step, micro.index))
        with self.autocast():
            loss = self.method.loss(self.model, batch, task_loss, micro)
        if not micro.share:
            loss = loss * 0  # a batch that is another process's
        loss.backward()
        return loss.detach()

    def _set_rates(self, step: int) -> None:
        shape = multiplier(self.spec.training, step, self.context.total_steps)
        for index, group in enumerate(self.optimizer.param_groups):
            group["lr"] = group["base_lr"] * shape * self.method.lr_multiplier(step, index)

    def _refuse_bad_numbers(self, step: int, loss: float, norm: float | None) -> None:
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if value is not None and not math.isfinite(value):
                wider = "" if self.spec.hardware.precision == "float32" else ", or hardware.precision=float32"
                raise RunError(
                    f"the {what} is {value} at step {step + 1}. Try a smaller training.learning_rate or a longer "
                    f"training.warmup_ratio{wider}."
                )
