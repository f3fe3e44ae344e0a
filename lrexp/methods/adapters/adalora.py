"""AdaLoRA: LoRA in the shape of singular triplets, of which the least important go while the model is trained.

Zhang et al. 2023, arXiv 2303.10512; the authors' maintained implementation is PEFT's.

    y = x W^T + b + s (drop(x) A^T diag(E)) B^T      A (r0, n), E (r0,), B (m, r0), s = alpha / r0 to the end
    loss + w R      R = mean over all A and B of ||A A^T - I||_F and ||B^T B - I||_F
    I = |p dL/dp|      Ibar = b1 Ibar + (1 - b1) I      U = b2 U + (1 - b2) |I - Ibar|      score = Ibar U
    of triplet i: score(E_i) + mean_j score(A_ij) + mean_j score(B_ji)

A, E and B are trained, the base is as it was; A and B start as N(0, 0.02^2), E as 0. After every step the entries'
scores are updated, from the moved weights and the gradients that moved them. The budget is all r0 triplets up to step
tinit, then falls by a cubic to target_r a layer; every deltaT steps, and at the last choice tfinal steps before the
end, the best triplets of all layers together stay and E of the others becomes 0. They still get gradients and may
return at the next choice; after the last one E is set to 0 again after every step. Accumulated micro-batches are one
step.

R is part of the loss: its gradient, in closed form, is added before clipping, though the loss that is logged is the
task's. Where we depart from the code: equal scores go by the model's order, so that the budget is met exactly (PEFT's
threshold takes all that are equal to it); s is without the 1e-5 that PEFT adds to r0; a fused layer has triplets for
each of its slices; with rank_pattern a layer that starts with fewer than target_r may keep them all. Triplets that went
are not cut out of A, E and B on the way: their rows still count in R, and cutting them would change the published
numbers. An exported adapter holds the others alone.

A run that starts from another's weights or from an AdaLoRA of PEFT's (`init_from`) has a schedule of its own: all r0
triplets may stay at first, those that had gone with E = 0, and it ends with its own target_r.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import has_values
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.orthonormal_factors import STD, add_penalty
from lrexp.methods.adapters.lora import FactorHyperparameters, LoRA
from lrexp.methods.base import Context, Decisions, Training
from lrexp.models.roles import pattern_values
from lrexp.spec.errors import InputError

TRAINED = ("lora_A", "lora_E", "lora_B")


@dataclass(frozen=True)
class AdaLoRAHyperparameters(FactorHyperparameters):
    """AdaLoRA's settings, under PEFT's names."""

    init_r: int = 12  # r0, triplets of a layer at the start; paper: 1.5 target_r
    target_r: int | None = None  # mean number of triplets of a layer at the end; None: two thirds of init_r
    lora_dropout: float = 0.0  # on the input of A alone
    tinit: float = 0.025  # steps before the budget falls; below 1: a share of all steps
    tfinal: float = 0.1  # steps after the last choice; below 1: a share of all steps
    deltaT: int = 10  # steps from choice to choice; paper: 100
    beta1: float = 0.85  # of Ibar; paper: 0.85
    beta2: float = 0.85  # of U; paper: 0.85
    orth_reg_weight: float = 0.1  # w; paper: 0.1 to 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        super().__post_init__()
        for where, count in (("init_r", self.init_r), ("target_r", self.target()), ("deltaT", self.deltaT)):
            if count < 1:
                raise ValueError(f"{where} is {count}: it is at least 1")
        if self.target() > self.init_r:
            raise ValueError(f"target_r is {self.target_r}, above init_r, which is {self.init_r}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: it is at least 0 and below 1")
        for where, steps in (("tinit", self.tinit), ("tfinal", self.tfinal)):
            if not 0 <= steps < math.inf or (steps >= 1 and steps != int(steps)):
                raise ValueError(f"{where} is {steps}: a share of the steps below 1, or a whole number of them")
        for where, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 < beta < 1:
                raise ValueError(f"{where} is {beta}: it lies between 0 and 1")
        if not 0 <= self.orth_reg_weight < math.inf:
            raise ValueError(f"orth_reg_weight is {self.orth_reg_weight}: it is at least 0")

    def target(self) -> int:
        """Triplets of a layer at the end."""
        return max(1, round(self.init_r / 1.5)) if self.target_r is None else self.target_r


@dataclass(frozen=True)
class Schedule:
    """How many triplets may stay, and when they are chosen; steps count from 1."""

    begin: int  # tinit
    last: int  # the step of the last choice
    gap: int  # deltaT

    @classmethod
    def of(cls, values: AdaLoRAHyperparameters, total: int) -> Schedule:
        """The schedule of a run of so many steps."""
        begin, final = (round(t * total) if t < 1 else int(t) for t in (values.tinit, values.tfinal))
        return cls(begin, total - final, values.deltaT)

    def budget(self, step: int, start: int, target: int) -> int:
        """Triplets of all layers together, from `start` down to `target`."""
        if step >= self.last:
            return target
        if step <= self.begin:
            return start
        left = 1 - (step - self.begin) / (self.last - self.begin)
        return int((start - target) * left**3 + target)

    def is_due(self, step: int) -> bool:
        """Whether triplets are chosen after this step."""
        return step == self.last or (self.begin < step < self.last and step % self.gap == 0)

    def choices(self, step: int) -> int:
        """How many choices there were up to a step before the last one."""
        return max(0, step // self.gap - self.begin // self.gap)


class AdaLoRA(LoRA):
    """LoRA with triplets, which are chosen after the steps.

    A budget of parameters sets init_r: that many triplets are trained, their moments and statistics held to the end,
    while target_r decides what is left of them and takes nothing.
    """

    Hyperparameters = AdaLoRAHyperparameters
    diagonal = True
    size = "init_r"
    may_differ = (
        "lr_multipliers",
        "lora_dropout", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight",
    )  # fmt: skip

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """As LoRA. Raises InputError for a schedule that does not fit into the run."""
        values, schedule = self.hyperparameters, Schedule.of(self.hyperparameters, context.total_steps)
        if context.total_steps and schedule.begin >= schedule.last:
            raise InputError(
                f"method.tinit={values.tinit:g} and method.tfinal={values.tfinal:g} leave none of the run's "
                f"{context.total_steps} steps to choose triplets in: make them smaller, or shares of the run (below 1)"
            )
        return super().prepare(model, decisions, context)

    def wrapped(
        self, model: nn.Module, decisions: Decisions, context: Context, begin: Callable[[LoRALayer, str], None]
    ) -> nn.Module:
        """LoRA's, and the schedule and statistics at their start."""
        model = super().wrapped(model, decisions, context, begin)
        self.schedule = Schedule.of(self.hyperparameters, context.total_steps)
        self.step = 0
        self.kept: Tensor | None = None  # of all triplets, those that the last choice left
        trained = list(self.trained().values())
        wide = torch.promote_types(trained[0].dtype, torch.float32)
        self.Ibar, self.U = (torch.cat([torch.zeros_like(p, dtype=wide).flatten() for p in trained]) for _ in range(2))
        return model

    def ranks(self, model: nn.Module, targets: list[str], decisions: Decisions) -> dict[str, int]:
        """The rank that every layer starts with."""
        other = pattern_values(model, self.hyperparameters.rank_pattern, targets, "rank_pattern")
        return {name: other.get(name, self.hyperparameters.init_r) for name in targets}

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """Draws A and B; E is zero, and with it the change."""
        if has_values(layer.lora_A):
            generator = context.generator(f"init:{name}")
            A, B = (torch.randn(factor.shape, generator=generator) * STD for factor in layer.factors())
            layer.set_factors(A, B)

    def trained(self) -> dict[str, nn.Parameter]:
        """A, E and B of every layer, by name."""
        return {f"{name}.{key}": getattr(layer, key) for name, layer in self.adapters.items() for key in TRAINED}

    def gradients_ready(self, step: int, training: Training) -> None:
        """Adds the gradient of w R."""
        weight = self.hyperparameters.orth_reg_weight
        if weight:
            add_penalty(self.adapters.values(), lambda factor: weight)

    @torch.no_grad()
    def after_update(self, step: int, training: Training) -> None:
        """Takes the gradients in, and chooses triplets where it is time to."""
        self.step = step + 1
        if self.step < self.schedule.last:
            self.observe()
        if self.schedule.is_due(self.step):
            self.kept = self.choice(self.budget())
            self.mask(self.kept)
        elif self.kept is not None and self.step > self.schedule.last:
            self.mask(self.kept)
        if self.step == self.schedule.last:  # nothing is chosen any more
            self.Ibar, self.U = self.flat({}), self.flat({})

    def observe(self) -> None:
        """Brings this step's |p dL/dp| into the statistics of all entries."""
        trained, values = list(self.trained().values()), self.hyperparameters
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        weights, slopes = (torch.cat([t.flatten() for t in each]).to(self.Ibar) for each in (trained, gradients))
        seen = (weights * slopes).abs_()
        self.Ibar.lerp_(seen, 1 - values.beta1)
        self.U.lerp_((seen - self.Ibar).abs_(), 1 - values.beta2)

    def choice(self, budget: int) -> Tensor:
        """Which triplets of all layers stay: the best, the earlier ones of those that are equal."""
        entries = self.by_name(self.Ibar * self.U)
        scores = torch.cat(
            [self.scores(layer, *(entries[f"{n}.{k}"] for k in TRAINED)) for n, layer in self.adapters.items()]
        )
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[scores.argsort(descending=True, stable=True)[:budget]] = True
        return kept

    @staticmethod
    def scores(layer: LoRALayer, A: Tensor, E: Tensor, B: Tensor) -> Tensor:
        """Scores of a layer's triplets, (blocks * rank,), from those of their entries in the parameters' shapes."""
        A, B = layer.seen(A, B)  # (blocks, rank, n), (blocks, m, rank)
        return E + A.mean(2).flatten() + B.mean(1).flatten()

    def by_name(self, entries: Tensor) -> dict[str, Tensor]:
        """Numbers of all entries, cut to the parameters' shapes; nothing where there are none any more."""
        if not len(entries):
            return {}
        trained = self.trained()
        parts = entries.split([p.numel() for p in trained.values()])
        return {name: part.view_as(p) for (name, p), part in zip(trained.items(), parts, strict=True)}

    def flat(self, entries: Mapping[str, Tensor]) -> Tensor:
        """The reverse of `by_name`."""
        return torch.cat([entries[name].flatten() for name in self.trained()]) if entries else torch.zeros(0)

    def mask(self, kept: Tensor) -> None:
        """Sets E of all other triplets to zero."""
        for layer, part in zip(self.adapters.values(), kept.split(self.sizes()), strict=True):
            assert layer.lora_E is not None
            layer.lora_E.masked_fill_(~part, 0.0)

    def sizes(self) -> list[int]:
        """Triplets of each layer."""
        return [layer.blocks * layer.rank for layer in self.adapters.values()]

    def budget(self) -> int:
        """Triplets of all layers together after the last step."""
        target = self.hyperparameters.target()
        least = sum(layer.blocks * min(layer.rank, target) for layer in self.adapters.values())
        return self.schedule.budget(self.step, sum(self.sizes()), least)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is, the last choice and the statistics."""
        parts = None if self.kept is None else self.kept.split(self.sizes())
        kept = None if parts is None else dict(zip(self.adapters, parts, strict=True))
        return {"step": self.step, "kept": kept, "Ibar": self.by_name(self.Ibar), "U": self.by_name(self.U)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes them back."""
        self.step = state["step"]
        self.Ibar, self.U = (self.flat(state[name]) for name in ("Ibar", "U"))
        kept = state["kept"]
        self.kept = None if kept is None else torch.cat([kept[name] for name in self.adapters])

    def metrics(self) -> dict[str, float]:
        """The mean rank that the last choice left (before one: what is not zero).

        As long as there are choices to come, also how many there were, and the budget of all layers together.
        """
        if not self.adapters:
            return {}
        diagonals = [layer.lora_E for layer in self.adapters.values() if layer.lora_E is not None]
        kept = torch.cat([E != 0 for E in diagonals]) if self.kept is None else self.kept
        matrices = sum(layer.blocks for layer in self.adapters.values())
        found = {"mean_rank": int(kept.sum()) / matrices}
        if self.step < self.schedule.last:
            found |= {"budget": self.budget(), "choices": self.schedule.choices(self.step)}
        return found
