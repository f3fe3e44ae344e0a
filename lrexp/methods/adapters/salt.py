"""SALT: the top singular values of each weight are scaled and shifted, the others' subspace gets a low-rank update.

Elsayed et al. 2025, arXiv 2503.16055.

    W = U diag(S) Vt      core = [ diag(alpha S_top + beta), 0 ; 0, diag(S_rest) + X Y ]      W_eff = U core Vt
    loss = task + lambda sum over layers of ( ||alpha S_top + beta - S_top|| + ||X Y||_F )

Trained are alpha and beta (p each) and X (k - p, d), Y (d, k - p), with k = min(m, n), p = max(1, ratio k), d =
r_lora. X is drawn uniformly in +-sqrt(6 / d) by seed and layer's name (the code draws the same X in every layer of a
shape), Y = 0. We keep W whole and train the change: alpha - 1 and beta on the top, so that the function and the penalty
start exactly at the base's and at 0, where norms have no gradient.

`relu` all is the code: a ReLU on every entry of core. Off the diagonal it starts at 0 with no gradient, and whatever of
X Y turns negative is cut and dead; the update has full rank. diag keeps the singular values from turning negative and
no more. none is the equations, and a LoRA of rank p + d between folded factors, with no matrix of the weight's size.
Preparation: one SVD a layer, one layer at a time, kept on disk by the weight's hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import adapt, adapted_layers, features, has_values, merge
from lrexp.layers.decomposition import top_triplets
from lrexp.layers.salt import Relu, SALTLayer, salt_layer
from lrexp.methods.base import Batch, Context, Decisions, Method, Micro, TaskLoss
from lrexp.models.roles import whole_layers
from lrexp.spec.errors import InputError

KINDS = (nn.Linear, Conv1D, nn.Conv2d)


@dataclass(frozen=True)
class SALTHyperparameters:
    """SALT's settings."""

    ratio: float = 0.1  # share of the singular values on top; the code: 0.1
    r_lora: int = 8  # d, rank of X Y; the code: 256
    relu: Relu = "none"  # on which entries of core; the code: all
    reg_multiplier: float = 0.0  # lambda; the code: 0 in its configuration, 0.01 as its function's default
    target_modules: str | tuple[str, ...] = ("q", "v")  # roles, names or patterns; the code: qkv and proj

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}: it is above 0 and at most 1")
        if self.r_lora < 1:
            raise ValueError(f"r_lora is {self.r_lora}: a rank is at least 1")
        if not 0 <= self.reg_multiplier < math.inf:
            raise ValueError(f"reg_multiplier is {self.reg_multiplier}: it is at least 0")


class SALT(Method):
    """Wraps the target modules, whole ones."""

    Hyperparameters = SALTHyperparameters
    size = "r_lora"
    may_differ = ("reg_multiplier",)

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Replaces the target modules; they and the head are trained, all else is frozen."""
        return self._wrapped(model, context, lambda layer, name: self.initialise(layer, name, context))

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """The same layers; the triplets are among the run's tensors, nothing is decomposed again."""
        return self._wrapped(model, context, lambda layer, name: None)

    def _wrapped(self, model: nn.Module, context: Context, begin: Callable[[SALTLayer, str], None]) -> nn.Module:
        values = self.hyperparameters
        layers: dict[str, SALTLayer] = {}
        for name in whole_layers(model, values.target_modules, context.head, KINDS):
            base = model.get_submodule(name)
            p = max(1, int(values.ratio * min(features(base))))
            layers[name] = salt_layer(name, base, p, values.r_lora, values.relu, context.dtype, context.device)
            begin(layers[name], name)
        return adapt(model, layers, context.head)

    def initialise(self, layer: SALTLayer, name: str, context: Context) -> None:
        """Sets the triplets and draws X. Raises InputError for a weight that has no SVD."""
        try:
            triplets = top_triplets(layer.matrix(), len(layer.S), context.cache)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        if has_values(layer.X):
            layer.set_triplets(triplets)
            bound = math.sqrt(6 / layer.d)
            drawn = torch.empty(layer.X.shape).uniform_(-bound, bound, generator=context.generator(f"init:{name}"))
            layer.X.data.copy_(drawn)

    def loss(self, model: nn.Module, batch: Batch, task_loss: TaskLoss, micro: Micro) -> Tensor:
        """The task's loss and the penalty."""
        loss, weight = task_loss(model, batch), self.hyperparameters.reg_multiplier * micro.share
        if weight:
            layers = [layer for layer in adapted_layers(model).values() if isinstance(layer, SALTLayer)]
            loss = loss + weight * torch.stack([layer.penalty() for layer in layers]).sum()
        return loss

    def finalize(self, model: nn.Module) -> nn.Module:
        """Merges every layer into a plain one of the original class."""
        return merge(model)
