"""EVA: LoRA whose A starts as the principal directions of the layer's inputs, ranks spread by explained variance.

Paischer et al. 2024, arXiv 2410.07170; the authors' maintained implementation is PEFT's.

    x: inputs of layer l on calibration batches, centred;  C_l = sum x x^T = V^T diag(S^2) V
    A_l = V[:r_l]      B_l = 0      xi_li = S_li^2 / sum_j S_lj^2 (explained variance ratio)

The sum of all ranks is that of LoRA: the largest xi of all layers win it, at most rho r to a layer (and no more than
its weight can have); a layer of rank 0 gets no adapter. A and B are trained, the base is as it was. Layers of equal
input (q, k, v) share one decomposition.

Where we depart from the code: the components come from a running covariance, exact, or for wide layers cut to four
times as many directions (`lrexp.linalg.covariance`), instead of an incremental SVD that keeps no more than it is asked
for (`estimator: incremental`, the published one); a layer has settled when its space keeps still, not each vector,
since two components of nearly equal variance turn for ever; equal inputs are known by being one tensor, not by their
hash; the forward pass ends at the last layer that is not settled; equal ratios go to layers in the model's order;
whitening divides a copy, not what a group shares; after `max_batches` what there is is taken, with a warning. With
adjust_scaling_factors a layer's scaling is what it would be with rank r, under use_rslora too, where PEFT's is not.
Layers other than Linear and Conv1D are refused: their inputs are no vectors. A fused layer has one rank for its slices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import features, has_values
from lrexp.layers.inputs import Groups, at_rest, find_groups, listen, rows, token_mask
from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.covariance import KEPT, RunningCovariance
from lrexp.linalg.incremental_pca import IncrementalPCA
from lrexp.linalg.ranks import pooled_ranks
from lrexp.linalg.svd import Triplets, randomized_svd, test_shape
from lrexp.methods.adapters.lora import LoRA, LowRankHyperparameters
from lrexp.methods.base import Batch, Context, Decisions
from lrexp.models.roles import selection
from lrexp.spec.errors import InputError

NITER = 4  # subspace iterations of the published incremental SVD

Estimator = RunningCovariance | IncrementalPCA


@dataclass(frozen=True)
class EVAHyperparameters(LowRankHyperparameters):
    """EVA's settings."""

    lora_dropout: float = 0.0  # on the input of A alone
    rho: float = 2.0  # no layer gets more than rho r; 1 leaves every rank at r; paper: 1 and 2
    tau: float = 0.99  # how still components have to be
    whiten: bool = False  # rows of A divided by the root of their singular value; paper: for vision
    adjust_scaling_factors: bool = True  # scaling as with rank r, whatever rank a layer gets; PEFT's default
    use_label_mask: bool = True  # tokens that are not predicted do not count; PEFT's default
    estimator: Literal["covariance", "incremental"] = "covariance"  # paper: incremental
    calibration_batch_size: int = 16  # items a batch; paper: 16
    max_batches: int = 64  # after which components are taken as they are; paper: no bound

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        super().__post_init__()
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: it is at least 0 and below 1")
        if not 1 <= self.rho < math.inf:
            raise ValueError(f"rho is {self.rho}: it is at least 1, so that the ranks find room")
        if not 0 < self.tau < 1:
            raise ValueError(f"tau is {self.tau}: it lies between 0 and 1")
        for where, count, least in (
            ("calibration_batch_size", self.calibration_batch_size, 1),
            ("max_batches", self.max_batches, 2),
        ):
            if count < least:
                raise ValueError(f"{where} is {count}: it is at least {least}")


@dataclass(frozen=True)
class Calibration:
    """What the calibration batches say: components by the leader of each group, ranks by layer."""

    groups: Groups
    estimators: Mapping[str, Estimator]
    ranks: Mapping[str, int]
    batches: int
    settled: bool


class EVA(LoRA):
    """LoRA whose ranks and start come from the inputs."""

    Hyperparameters = EVAHyperparameters
    may_differ = (
        "lr_multipliers",
        "lora_dropout", "rho", "tau", "whiten", "use_label_mask", "estimator", "calibration_batch_size", "max_batches",
    )  # fmt: skip
    decisions = Decisions()

    def decide(self, model: nn.Module, context: Context) -> Decisions:
        """Ranks by layer and the start of every A, from calibration batches; the model is left as it was."""
        return self.decided(self.calibrate(model, context))

    def calibrate(self, model: nn.Module, context: Context) -> Calibration:
        """Feeds calibration batches until all components that matter are settled."""
        values = self.hyperparameters
        targets = list(selection(model, values.target_modules, context.head))
        for name in targets:
            refuse_others(name, model.get_submodule(name))
        ranks = self.ranks(model, targets, Decisions())
        assert context.calibration is not None and context.task_loss is not None
        batches = context.calibration("eva", values.max_batches, values.calibration_batch_size)
        with at_rest(model), torch.no_grad():
            first = next(batches)
            item = {name: tensor[:1] for name, tensor in first.items()}
            groups = find_groups(model, targets, partial(context.task_loss, model, item))
            caps = self.caps(model, groups, ranks)
            estimators = {name: self.estimator(model, name, groups, caps, context) for name in groups.leaders}
            found, count = dict(caps), 0
            for batch in itertools.chain([first], batches):
                moving = self.moving(groups, estimators, found)
                if not moving:
                    break
                self._feed(model, batch, {name: groups.calls[name] for name in moving}, estimators, context)
                count += 1
                if all(each.components is not None for each in estimators.values()):
                    found = redistributed(groups, estimators, caps, sum(ranks.values()))
        moving = self.moving(groups, estimators, found)
        self._warn(moving, estimators, count, context)
        for each in estimators.values():
            each.finish()
        return Calibration(
            groups, estimators, redistributed(groups, estimators, caps, sum(ranks.values())), count, not moving
        )

    def _feed(
        self,
        model: nn.Module,
        batch: Batch,
        calls: Mapping[str, int],
        estimators: Mapping[str, Estimator],
        context: Context,
    ) -> None:
        """One forward pass, whose inputs of the layers in `calls` go to their estimators."""
        mask = token_mask(batch, self.hyperparameters.use_label_mask)
        assert context.task_loss is not None
        forward = partial(context.task_loss, model, batch)
        listen(model, calls, lambda name, x: estimators[name].update(rows(x, mask)), forward)

    def moving(self, groups: Groups, estimators: Mapping[str, Estimator], ranks: Mapping[str, int]) -> list[str]:
        """Leaders of the groups whose first components, as many as the largest rank, are not settled yet."""
        needed = {leader: max(ranks[name] for name in groups.members(leader)) for leader in groups.leaders}
        return [name for name, r in needed.items() if not estimators[name].is_steady(r, self.hyperparameters.tau)]

    def caps(self, model: nn.Module, groups: Groups, ranks: Mapping[str, int]) -> dict[str, int]:
        """The largest rank of each layer: rho times the largest r of its group, within what its weight can have."""
        most = {}
        for name, leader in groups.leader.items():
            r = max(ranks[member] for member in groups.members(leader))
            most[name] = min(round(r * self.hyperparameters.rho), *features(model.get_submodule(name)))
        return most

    def estimator(
        self, model: nn.Module, name: str, groups: Groups, caps: Mapping[str, int], context: Context
    ) -> Estimator:
        """What takes in the inputs of the group that `name` leads."""
        n = features(model.get_submodule(name))[1]
        k = max(caps[member] for member in groups.members(name))
        if self.hyperparameters.estimator == "incremental":
            return IncrementalPCA(k, partial(self.decompose, context=context))
        return RunningCovariance(k, torch.randn((n, min(n, KEPT * k)), generator=context.generator(f"omega:{name}")))

    def decompose(self, stack: Tensor, k: int, context: Context) -> Triplets:
        """The published randomized SVD of 2 k dimensions, its test matrix the same at every call."""
        omega = self.omega(test_shape((stack.shape[0], stack.shape[1]), k, k), stack.dtype, context)
        return randomized_svd(stack, k, NITER, k, omega)

    def omega(self, shape: tuple[int, int], dtype: torch.dtype, context: Context) -> Tensor:
        """The Gaussian test matrix."""
        return torch.randn(shape, generator=context.generator("omega"), dtype=dtype)

    def _warn(self, moving: list[str], estimators: Mapping[str, Estimator], count: int, context: Context) -> None:
        values = self.hyperparameters
        short = [name for name, each in estimators.items() if each.components is None]
        if short:
            raise InputError(
                f"EVA found too few tokens for {estimators[short[0]].k} components of {short[0]} in {count} batches: "
                "raise method.calibration_batch_size"
            )
        if moving:
            context.say(
                f"EVA: the components of {len(moving)} of {len(estimators)} inputs still move (tau {values.tau:g}) "
                f"after {count} batches: taken as they are; raise method.max_batches or method.calibration_batch_size"
            )

    def decided(self, found: Calibration) -> Decisions:
        """What is kept: ranks, the ratios they come from, and A by layer."""
        tensors, ratios = {}, {}
        for name, leader in found.groups.leader.items():
            each, r = found.estimators[leader], found.ranks[name]
            assert each.components is not None
            ratios[name] = each.explained_variance_ratio.tolist()
            if r:
                A = each.components[:r]
                tensors[name] = A / each.singular_values[:r, None].sqrt() if self.hyperparameters.whiten else A.clone()
        values = {
            "ranks": dict(found.ranks),
            "explained_variance_ratio": ratios,
            "batches": found.batches,
            "settled": found.settled,
        }
        return Decisions(values, tensors)

    def ranks(self, model: nn.Module, targets: list[str], decisions: Decisions) -> dict[str, int]:
        """Those that were decided, layers of rank 0 left out; r everywhere where nothing is decided yet."""
        if "ranks" not in decisions.values:
            return super().ranks(model, targets, decisions)
        self.decisions = decisions
        return {name: r for name, r in decisions.values["ranks"].items() if r}

    def alphas(self, model: nn.Module, targets: list[str], ranks: Mapping[str, int]) -> dict[str, float]:
        """Such that the scaling is that of rank r, where it is adjusted."""
        alphas = super().alphas(model, targets, ranks)
        if not self.hyperparameters.adjust_scaling_factors:
            return alphas
        before = super().ranks(model, targets, Decisions())
        power = 0.5 if self.hyperparameters.use_rslora else 1.0
        return {name: alpha * (ranks[name] / before[name]) ** power for name, alpha in alphas.items()}

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """A as it was decided, B = 0. Raises InputError for a layer whose inputs are no vectors."""
        refuse_others(name, layer.base)
        if has_values(layer.lora_A):
            A = decisions.tensors[name].to(layer.lora_A.device)
            layer.set_factors(A.expand(layer.blocks, *A.shape), torch.zeros_like(layer.lora_B))

    def metrics(self) -> dict[str, float]:
        """Largest rank, layers without an adapter, and how many batches that took."""
        kept = self.decisions.values
        if not kept:
            return {}
        ranks = kept["ranks"].values()
        removed = sum(r == 0 for r in ranks)
        return {"largest_rank": max(ranks), "layers_removed": removed, "calibration_batches": kept["batches"]}


def refuse_others(name: str, base: nn.Module) -> None:
    """Raises InputError for a layer whose inputs are no vectors."""
    if not isinstance(base, nn.Linear | Conv1D):
        raise InputError(f"{name} is a {type(base).__name__}: EVA needs inputs of Linear or Conv1D; leave it out")


def redistributed(
    groups: Groups, estimators: Mapping[str, Estimator], caps: Mapping[str, int], budget: int
) -> dict[str, int]:
    """Ranks by layer: the `budget` largest ratios of all layers' components win; ties go in the model's order."""
    names = list(groups.leader)
    ratios = [estimators[groups.leader[name]].explained_variance_ratio[: caps[name]] for name in names]
    return dict(zip(names, pooled_ranks(ratios, [1] * len(names), budget), strict=True))
