"""Intrinsic dimension: the whole model moves in a random subspace of d dimensions; its d is what a task needs.

Li, Farkhoor, Liu, Yosinski 2018, arXiv 1804.08838.

    theta_D = theta_D0 + P theta_d        P (D, d): dense, sparse or Fastfood, its columns of length 1 in R^D

Trained are the d numbers theta_d, from 0; every tensor that the model lets train moves, the head from its random start.
theta_D0 and P are frozen; P is drawn from the seed and never saved. The smallest d that reaches 90 % of full training
is the intrinsic dimension. `scope` is ours: `per_tensor` gives every tensor a projection of its own, with columns of
length 1 in each, of the same theta_d (jgamper's PyTorch port; SAID); there Fastfood cuts theta_d to the power of two at
or above a tensor's size, so that a bias of 10 numbers sees 16 coordinates, and `metrics` counts such tensors. The port
divides dense blocks by sqrt(d) instead of by the columns' lengths; we do not. `l2` is the paper's penalty on the full
weights, a term of the loss; the optimizer's weight decay acts on theta_d, which pulls all weights to their start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lrexp.layers.subspace import Subspace, keep_start, moving, subspace_of
from lrexp.linalg.fastfood import length
from lrexp.linalg.projections import Draw, Kind, Placed, over_all, per_tensor
from lrexp.methods.base import Batch, Context, Decisions, Group, Method, Micro, TaskLoss
from lrexp.spec.errors import InputError

Scope = Literal["global", "per_tensor"]


@dataclass(frozen=True)
class IntrinsicDimensionHyperparameters:
    """The subspace, and the paper's penalty."""

    intrinsic_dimension: int = 750  # d; paper: 750 for MNIST with 784-200-200-10
    projection: Kind = "fastfood"  # how P is drawn; paper: all three, by size
    scope: Scope = "global"  # paper: one P over all weights
    l2: float = 0.0  # times the squares of all matrices' entries, in the loss; paper: 0, 1e-4, 1e-5

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        if self.intrinsic_dimension < 1:
            raise ValueError(f"intrinsic_dimension is {self.intrinsic_dimension}: it is at least 1")
        if not 0 <= self.l2 < math.inf:
            raise ValueError(f"l2 is {self.l2}: it is a number, at least 0")


class SubspaceMethod(Method):
    """What trains theta alone.

    The seed of P is decided once: a run that starts from another's weights moves in the subspace of that run.
    """

    has_lam = False  # a scalar for every tensor
    legacy_grad_scale = False

    def __init__(self, hyperparameters: object) -> None:
        super().__init__(hyperparameters)
        self._numbers: dict[str, float] = {}

    @property
    def scope(self) -> Scope:
        """Whether P spans all tensors together."""
        return "per_tensor"

    def decide(self, model: nn.Module, context: Context) -> Decisions:
        """The seed of P, and D where P spans all tensors together."""
        D = sum(tensor.parameter.numel() for tensor in moving(model))
        return Decisions({"seed": context.seed} | ({"D": D} if self.scope == "global" else {}))

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Freezes all parameters as they are and puts theta beside them; P is drawn."""
        tensors = moving(model)
        D = sum(tensor.parameter.numel() for tensor in tensors)
        if decisions.values.get("D", D) != D:
            raise InputError(
                f"the run's subspace lies in {decisions.values['D']} weights and this model has {D}, by another head: "
                "only scope=per_tensor can go on from it."
            )
        d = self.dimension(D, len(tensors))
        sizes = {tensor.name: tensor.parameter.numel() for tensor in tensors}
        theta = nn.Parameter(torch.zeros(d, dtype=context.dtype, device=context.device))
        ones = torch.ones(len(tensors), dtype=context.dtype, device=context.device)
        lam = nn.Parameter(ones) if self.has_lam else None
        seeded = replace(context, seed=decisions.values.get("seed", context.seed))
        drawn = self.projections(sizes, d, self.draw(seeded))
        placed = [Placed(projection.to(context.device), parts) for projection, parts in drawn]
        keep_start(model, tensors, context.head)
        Subspace(tensors, theta, lam, self.legacy_grad_scale).attach(model, placed)
        self._numbers = {"d": d + (len(tensors) if self.has_lam else 0), "D": D}
        if self.scope == "per_tensor" and self.hyperparameters.projection == "fastfood":
            self._numbers["cut_tensors"] = sum(length(size) < d for size in sizes.values())
        return model

    def dimension(self, D: int, tensors: int) -> int:
        """The length of theta for a model of D weights in so many tensors. Raises InputError where it cannot be."""
        d = self.hyperparameters.intrinsic_dimension
        if d > D:
            raise InputError(f"intrinsic_dimension is {d}, more than the {D} weights of the model: at most {D}.")
        return d

    def draw(self, context: Context) -> Draw:
        """The source of everything random."""
        return Draw(context.generator)

    def projections(self, sizes: Mapping[str, int], d: int, draw: Draw) -> list[Placed]:
        """P, over all tensors together or for each."""
        return (over_all if self.scope == "global" else per_tensor)(self.hyperparameters.projection, sizes, d, draw)

    def parameter_groups(self, model: nn.Module) -> list[Group]:
        """theta, and lam where there is one: weight decay acts on both, it pulls the weights to their start."""
        return [Group({name: p for name, p in model.named_parameters() if p.requires_grad})]

    def finalize(self, model: nn.Module) -> nn.Module:
        """Writes the weights into the model's own parameters and takes theta out."""
        return subspace_of(model).merge(model)

    def metrics(self) -> dict[str, float]:
        """What is trained (d) and what moves by it (D), and how many tensors see the first part of theta only."""
        return dict(self._numbers)


class IntrinsicDimension(SubspaceMethod):
    """Trains d numbers; with the paper's penalty on the full weights."""

    Hyperparameters = IntrinsicDimensionHyperparameters
    size = "intrinsic_dimension"
    may_differ = ("l2",)

    @property
    def scope(self) -> Scope:
        """As the hyperparameter says."""
        return self.hyperparameters.scope

    def loss(self, model: nn.Module, batch: Batch, task_loss: TaskLoss, micro: Micro) -> Tensor:
        """The task's loss, and l2 times the squares of all matrices' entries once a step."""
        loss = task_loss(model, batch)
        l2 = self.hyperparameters.l2
        if l2 == 0:
            return loss
        squares = [W.square().sum() for W in subspace_of(model).laid() if W.ndim >= 2]
        return loss + micro.share * l2 * torch.stack(squares).sum()
