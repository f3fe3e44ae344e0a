"""What SVFit and LoLDU share: factors taken from the weight and frozen, with a trained diagonal between them.

    W = B diag(d) A + rest      y = x W^T + b + s ((x A^T) e) B^T      A (r, n), B (m, r)

Trained is e, the change of the diagonal from its start d: the weight itself stays as it is, the function at the start
is exactly the base's, and bf16 holds small changes of large entries. As e starts at 0, shrinking it would pull the
weight to where it was; vectors get no weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import features, has_values
from lrexp.layers.lora_layer import LoRALayer
from lrexp.methods.adapters.lora import LoRA, check_multipliers
from lrexp.methods.base import Context, Decisions
from lrexp.models.roles import pattern_values, selection
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class FrozenFactorsHyperparameters:
    """What both have in common."""

    r: int | None = None  # entries of the diagonal that are trained; null: all, the smaller side of each weight
    target_modules: str | tuple[str, ...] = ("q", "v")  # roles, names or patterns
    rank_pattern: dict[str, int] = field(default_factory=dict)  # other ranks for some of the targets
    lr_multipliers: dict[str, float] = field(default_factory=dict)  # of roles: scale (the diagonal), head

    def __post_init__(self) -> None:
        """Raises ValueError for ranks and rates out of range."""
        for where, r in [("r", self.r), *((f"rank_pattern {name}", r) for name, r in self.rank_pattern.items())]:
            if r is not None and r < 1:
                raise ValueError(f"{where} is {r}: a rank is at least 1")
        check_multipliers(self.lr_multipliers)


class Factors(NamedTuple):
    """What stands around the diagonal of one matrix (m, n), and where the trained change of the diagonal starts."""

    A: Tensor  # (r, n)
    B: Tensor  # (m, r)
    e: Tensor  # (r,)


class FrozenFactors(LoRA):
    """Wraps the target modules; subclasses give the factors of a weight."""

    diagonal = True

    def factors(self, layer: LoRALayer, W: Tensor, name: str, context: Context) -> Factors:
        """The factors of one (m, n) matrix of the layer. Raises ValueError for a matrix that has none."""
        raise NotImplementedError

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """Sets the factors of every block and freezes them. Raises InputError, with the layer's name."""
        if has_values(layer.lora_A):
            try:
                found = [self.factors(layer, W, f"{name}:{j}", context) for j, W in enumerate(layer.matrices())]
            except ValueError as error:
                raise InputError(f"{name}: {error}") from error
            layer.set_factors(torch.stack([each.A for each in found]), torch.stack([each.B for each in found]))
            with torch.no_grad():
                layer.lora_E.copy_(torch.cat([each.e for each in found]))  # type: ignore[union-attr]
        layer.freeze_factors()

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """The same layers; the factors are among the run's tensors, nothing is decomposed again."""
        return self.wrapped(model, decisions, context, lambda layer, name: layer.freeze_factors())

    def ranks(self, model: nn.Module, targets: list[str], decisions: Decisions) -> dict[str, int]:
        """The rank of every layer: its own, r, or the largest that it can have."""
        values = self.hyperparameters
        other = pattern_values(model, values.rank_pattern, targets, "rank_pattern")
        slices = selection(model, values.target_modules, ())

        def largest(name: str) -> int:
            m, n = features(model.get_submodule(name))
            return min(m // max(1, len(slices[name])), n)

        return {name: other.get(name, values.r or largest(name)) for name in targets}

    def alphas(self, model: nn.Module, targets: list[str], ranks: Mapping[str, int]) -> dict[str, float]:
        """Equal to the rank: s = 1."""
        return {name: float(r) for name, r in ranks.items()}
