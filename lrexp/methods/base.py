"""The life of a method: the hooks that the engine calls, in the order in which it calls them.

Every method is one class that overrides the hooks it needs and no more. This file is their only definition; the engine
knows nothing else of a method. A hook that no method needs yet is not here: it is added when the first one does, for
all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.linalg import random
from lrexp.optim.group import Group

__all__ = ["Batch", "Context", "Decisions", "Group", "Method", "Micro", "TaskLoss", "Training"]

Batch = Mapping[str, Tensor]
TaskLoss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Context:
    """All that a method may ask of a run.

    `dtype` is the precision of trained parameters; `cache` a folder for decompositions that outlive the run (None: no
    cache); `head` the patterns of the modules that are trained beside any adapter. `task_loss(model, batch)` is the
    loss per target of a batch, `calibration(name, count, size)` gives batches of train on the device, drawn by the seed
    for the stream `name`; both are None where a model is prepared on shapes alone. `say` shows a line to the person
    who runs it and keeps it in the log.
    """

    seed: int
    total_steps: int
    device: torch.device
    dtype: torch.dtype
    head: tuple[str, ...] = ()
    cache: Path | None = None
    task_loss: TaskLoss | None = None
    calibration: Callable[[str, int, int], Iterator[Batch]] | None = None
    say: Callable[[str], None] = lambda text: None

    def generator(self, name: str, step: int = 0, micro: int = 0) -> torch.Generator:
        """A fresh CPU generator for one draw of the stream `name`: the same arguments give the same numbers, always."""
        return random.generator(self.seed, f"method/{name}", step, micro)

    def on_shapes(self) -> Context:
        """The same run for a model of fake tensors: on the CPU, without cache and data."""
        return replace(self, device=torch.device("cpu"), cache=None, task_loss=None, calibration=None)


@dataclass(frozen=True)
class Micro:
    """One micro-batch of a step: its index, whether it is the last, and its share of the batch's targets."""

    index: int
    is_last: bool
    share: float


@dataclass
class Decisions:
    """What `decide` found in the data: kept with the run, never drawn or decided twice.

    A method that changes its structure on the way (a rank that grows) changes these too: every checkpoint keeps them,
    and a resumed run prepares its model from the latest.
    """

    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Training:
    """The method's hand on the optimizer during a step."""

    def __init__(self, optimizer: Optimizer, step: int) -> None:
        self.optimizer = optimizer
        self.step = step

    def state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The optimizer's state of one parameter (moments, step count)."""
        return self.optimizer.state[parameter]

    def reset(self, parameter: nn.Parameter) -> None:
        """Forgets the state of one parameter, its step count included."""
        self.optimizer.state.pop(parameter, None)


class Method:
    """A way to train a model. Subclasses set `Hyperparameters`, whose values an instance holds, and override hooks."""

    Hyperparameters: ClassVar[type]
    keeps_base: ClassVar[bool] = True  # what is not trained stays as `prepare` left it: only an adapter is saved
    measures_base: ClassVar[bool] = False  # the base, and the model as prepared, are evaluated too: for compression
    size: ClassVar[str | None] = None
    """The hyperparameter that a budget of parameters or memory decides: a rank, a density, a dimension; None: none.

    The larger, the more is trained or kept. A whole number from 1, or, of type float, a share in thousandths below 1.
    """
    may_differ: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters in which a run may differ from the one that it starts from (`init_from`).

    They decide the start of a fresh run, or training alone: with the same tensors `reload` gives the same function.
    """

    def __init__(self, hyperparameters: Any) -> None:
        self.hyperparameters = hyperparameters

    def decide(self, model: nn.Module, context: Context) -> Decisions:
        """What depends on data, found once before the structure is built. Default: nothing."""
        return Decisions()

    def bound(self, model: nn.Module) -> Decisions:
        """Decisions without data in place of those that `decide` finds: for plans and rehearsals on shapes.

        Ranks that data decide may end otherwise, layer by layer; all that does not depend on them has its true shape.
        """
        return Decisions()

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Wraps layers, decomposes weights, sets `requires_grad`: structure from shapes and decisions alone.

        Works under fake tensors. Raises InputError where the target modules match nothing.
        """
        return model

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """`prepare` for a run that goes on or is over: the structure, and what `prepare` changed in the base, exactly.

        A resumed run comes by here, not by `prepare`: what `prepare` notes in the instance for later steps is noted
        here too. `tensors` holds all that the run kept, by the names of the prepared model, complete and of the right
        shapes; the engine copies it in afterwards. Default: `prepare`. A method whose base depends on a start that
        cannot be found again to the bit (an SVD on another machine, a draw, data) takes the start from `tensors`
        instead.
        """
        return self.prepare(model, decisions, context)

    def parameter_groups(self, model: nn.Module) -> list[Group]:
        """What the optimizer gets. Default: all that requires a gradient, weight decay on what is `decayed`."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        decayed = self.decayed(model)
        shrinking = {name: p for name, p in trained.items() if name in decayed}
        others = {name: p for name, p in trained.items() if name not in decayed}
        return [g for g in (Group(shrinking), Group(others, weight_decay=False)) if g.parameters]

    def decayed(self, model: nn.Module) -> set[str]:
        """Names of the parameters on which weight decay acts. Default: matrices, and what has more dimensions."""
        return {name for name, p in model.named_parameters() if p.ndim >= 2}

    def build_optimizer(self, groups: list[Group], make: Callable[[list[Group]], Optimizer]) -> Optimizer:
        """The optimizer over the groups; `make` gives the spec's base optimizer. Default: just that."""
        return make(groups)

    def lr_multiplier(self, step: int, group: int) -> float:
        """A factor on the schedule's rate for one group at one step. Default: 1."""
        return 1.0

    def before_step(self, step: int) -> None:
        """Before the first micro-batch of a step: what is drawn per step is drawn here."""

    def loss(self, model: nn.Module, batch: Batch, task_loss: TaskLoss, micro: Micro) -> Tensor:
        """The scalar to differentiate for one micro-batch.

        `task_loss` is already divided by the targets of the whole batch; a penalty per step is added times
        `micro.share`.
        """
        return task_loss(model, batch)

    def gradients_ready(self, step: int, training: Training) -> None:
        """All micro-batches are in, nothing is clipped yet."""

    def before_update(self, step: int, training: Training) -> None:
        """After clipping, before the optimizer moves."""

    def after_update(self, step: int, training: Training) -> None:
        """Optimizer and schedule have moved; the gradients are still there."""

    def finalize(self, model: nn.Module) -> nn.Module:
        """Merges, prunes, drops wrappers: a plain model of the original classes again, equal in its outputs."""
        return model

    def state_dict(self) -> dict[str, Any]:
        """Whatever is neither a parameter nor a buffer of the model: tensors keyed by module name, plus JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

    def metrics(self) -> dict[str, float]:
        """Numbers of the method's own doing (ranks, sparsity, how often it acted): logged, and columns of the table."""
        return {}
