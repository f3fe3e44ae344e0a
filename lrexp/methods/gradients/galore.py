"""GaLore: every weight is trained, with the optimizer's state in a low-rank projection of each matrix's gradient.

Zhao et al. 2024, arXiv 2403.03507, algorithm 2.

    at steps 0, T, 2T, ...: G = U S V^T, and Q = V_r^T (r, n) for m >= n, P = U_r (m, r) for m < n
    R = G Q^T (or P^T G)      N = the base optimizer's direction for R      W <- W - lr alpha N Q (or P N)

The projector lies on the shorter side: r min(m, n) numbers, and 2 r max(m, n) for the two moments of Adam, which are
neither reset nor rotated when the projector changes. Embeddings, output layer, head, norms and biases get the base
optimizer as it is, at the same rate without alpha. Nothing is merged at the end.

Departures. The singular vectors come from a warm-started subspace iteration (the paper: an SVD; `svd=exact`), and have
canonical signs: with the signs that an SVD happens to give, the moments meet other signs after a refresh, so training
differs from one library to the next (`sign=raw`). With accumulation a step is a step also under
`training.per_layer_updates` (the authors step in every micro-batch). The side is decided once from the weight's shape,
where the code guesses it anew (and fails for `reverse_std` on a wide matrix). A convolution is a matrix of
(out, in k k); the authors' tensor mode returns the raw gradient. `full` divides rounding noise by its own size right
after a refresh, since R is diagonal there: an experiment, to be had with an eps of 1e-6 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import has_values
from lrexp.methods.base import Context, Decisions, Group, Method
from lrexp.models.roles import whole_layers
from lrexp.optim.projected import Projected
from lrexp.optim.projector import Basis, Projector, ProjType, SubspaceProjector


@dataclass(frozen=True)
class GaLoreHyperparameters:
    """GaLore's settings, by the authors' names."""

    rank: int = 32  # r; paper: a quarter of the width, 128 for 60M
    update_proj_gap: int = 200  # T; paper: 200, 500 for 7B
    scale: float = 0.25  # alpha; paper: 0.25 (pretraining), 4 with r = 4 (GLUE)
    proj_type: ProjType = "std"  # which side is projected; paper: std, the shorter one
    target_modules: str | tuple[str, ...] = ("attention", "mlp")  # roles, names or patterns; paper: these
    svd: Literal["subspace", "exact"] = "subspace"  # paper: exact
    svd_niter: int = 2  # subspace iterations at most; one more from a random start
    svd_oversampling: int = 16  # dimensions beyond r, dropped at the end
    sign: Literal["canonical", "raw"] = "canonical"  # of the singular vectors; the authors: raw

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        for where, count, least in (
            ("rank", self.rank, 1),
            ("update_proj_gap", self.update_proj_gap, 1),
            ("svd_niter", self.svd_niter, 1),
            ("svd_oversampling", self.svd_oversampling, 0),
        ):
            if count < least:
                raise ValueError(f"{where} is {count}: it is at least {least}")
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}: it is above 0")


@dataclass(frozen=True)
class Target:
    """A weight whose gradient is projected; `is_transposed` where its layer stores it as (in, out)."""

    shape: tuple[int, ...]
    is_transposed: bool


class GaLore(Method):
    """Trains the model as it is; its kin project otherwise (`projector`)."""

    Hyperparameters = GaLoreHyperparameters
    size = "rank"
    keeps_base = False
    may_differ = tuple(field.name for field in fields(GaLoreHyperparameters))  # the model itself has none of them

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Notes which weights are projected; the model stays as it is. Raises InputError for a part of a weight."""
        self._note_targets(model, context)
        if has_values(next(model.parameters())):
            self._say_ranks(context)
        return model

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """The same, without a word."""
        self._note_targets(model, context)
        return model

    def _note_targets(self, model: nn.Module, context: Context) -> None:
        names = {id(p): name for name, p in model.named_parameters()}
        self.draw = context.generator
        self.targets: dict[str, Target] = {}
        for module_name in whole_layers(model, self.hyperparameters.target_modules, context.head):
            module = model.get_submodule(module_name)
            weight = module.get_parameter("weight")
            self.targets[names[id(weight)]] = Target(tuple(weight.shape), isinstance(module, Conv1D))

    def build_optimizer(self, groups: list[Group], make: Callable[[list[Group]], Optimizer]) -> Optimizer:
        """The base optimizer, working on projected gradients of the targets."""
        held = {name for group in groups for name in group.parameters}
        return Projected(groups, make, {n: self.projector(n, t) for n, t in self.targets.items() if n in held})

    def projector(self, name: str, target: Target) -> Projector:
        """The projector of one weight."""
        values = self.hyperparameters
        basis = Basis(
            values.svd, values.svd_niter, values.svd_oversampling, values.sign, partial(self._generator, name)
        )
        return SubspaceProjector(
            target.shape, values.rank, values.update_proj_gap, values.scale, values.proj_type, basis,
            target.is_transposed,
        )  # fmt: skip

    def _generator(self, name: str, step: int) -> torch.Generator:
        return self.draw(f"projector:{name}", step)

    def _say_ranks(self, context: Context) -> None:
        """Says how many weights have no such rank: for them the projection only rotates."""
        rank = self.hyperparameters.rank
        sizes = [min(t.shape[0], torch.Size(t.shape[1:]).numel()) for t in self.targets.values()]
        if small := [size for size in sizes if size < rank]:
            context.say(
                f"GaLore: rank {rank} is above the smaller side of {len(small)} of {len(sizes)} target weights "
                f"(from {min(small)}): there it is that side"
            )
