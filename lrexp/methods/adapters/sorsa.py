"""SORSA: the leading singular triplets of the weight are trained apart, and both factors are kept orthonormal.

Cao and Song 2024, arXiv 2409.00055.

    W = U S V^T      A0 = V_r^T      E0 = S_r      B0 = U_r      W_res = W - s B0 diag(E0) A0
    y = x W_res^T + b + s (x A^T diag(E)) B^T
    R = mean over all A and B of ||A A^T - I||_F and ||B^T B - I||_F

A, E and B are trained, W_res and b frozen; s is 1, and alpha / r where alpha is given. Once a step, after the task's
gradients are clipped, gamma / lr_max times the gradient of R is added to them, where lr_max is the highest rate of
the schedule (of the parameter's own group): a step of SGD moves by gamma times the schedule, whatever the rate is.
Under AdamW the sum goes through the moments, as in the code. E is neither penalised nor kept positive.

The gradient of R is a closed form of (r, r) products, not a second backward pass, and the forward pass never builds
the (m, n) product, which the authors' code does. At the start R is rounding, and yet its gradient has full length: the
first steps are pushed in a direction that is noise. So it is in the code; `penalty: squared` takes the squares of the
norms, whose gradient vanishes with them. A0 and B0 diag(E0) stay with the layer, as in PiSSA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lrexp.layers.adapted import has_values
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.orthonormal_factors import add_penalty, penalty_value
from lrexp.linalg.orthonormality import Penalty
from lrexp.methods.adapters.pissa import PiSSA, PiSSAHyperparameters
from lrexp.methods.base import Context, Decisions, Training
from lrexp.models.roles import pattern_values


@dataclass(frozen=True)
class SORSAHyperparameters(PiSSAHyperparameters):
    """SORSA's settings; r = 128 in the authors' scripts."""

    lora_alpha: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride] (None: s = 1, as in the paper)
    gamma: float = 4e-4  # weight of R; the authors' scripts: 4e-4
    penalty: Penalty = "norm"  # what R is the mean of; the code: the norms

    def __post_init__(self) -> None:
        """Raises ValueError for a gamma below 0."""
        super().__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma is {self.gamma}: it is at least 0")


class SORSA(PiSSA):
    """PiSSA with the singular values between the factors, and the penalty."""

    Hyperparameters = SORSAHyperparameters
    may_differ = (*PiSSA.may_differ, "gamma", "penalty")
    diagonal = True

    def alphas(self, model: nn.Module, targets: list[str], ranks: Mapping[str, int]) -> dict[str, float]:
        """Such that the scale is 1 where no alpha is given."""
        values = self.hyperparameters
        if values.lora_alpha is not None:
            return super().alphas(model, targets, ranks)
        other = pattern_values(model, values.alpha_pattern, targets, "alpha_pattern")
        return {name: other.get(name, math.sqrt(r) if values.use_rslora else float(r)) for name, r in ranks.items()}

    @torch.no_grad()
    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """Sets A0, E0 and B0 to the weight's leading triplets and takes their product out of the base."""
        triplets = [self.triplets(W, layer.rank, f"{name}:{j}", context) for j, W in enumerate(layer.matrices())]
        if has_values(layer.lora_A):
            assert layer.lora_E is not None
            layer.set_factors(torch.stack([t.Vh for t in triplets]), torch.stack([t.U for t in triplets]))
            layer.lora_E.copy_(torch.cat([t.S for t in triplets]))
        layer.take_from_base()

    def before_update(self, step: int, training: Training) -> None:
        """Adds the penalty's gradient to the clipped ones."""
        gamma = self.hyperparameters.gamma
        if not gamma:
            return
        peaks = {p: group["base_lr"] for group in training.optimizer.param_groups for p in group["params"]}
        add_penalty(self.adapters.values(), lambda factor: gamma / peaks[factor], self.hyperparameters.penalty)

    def metrics(self) -> dict[str, float]:
        """R of the factors as they are."""
        if not self.adapters:
            return {}
        return {"orthonormality_error": float(penalty_value(self.adapters.values()))}
