"""Compression by truncated SVD: each weight becomes a product of two thin factors; plain, ASVD, or SVD-LLM.

Plain: Eckart and Young 1936. ASVD: Yuan et al. 2023, arXiv 2312.05821. SVD-LLM: Wang et al. 2024, arXiv 2403.07378.

    W S = U diag(sigma) V^T     B = U_r sqrt(sigma_r)     A = sqrt(sigma_r) V_r^T S^-1 = U_r^T W / sqrt(sigma_r)
    y = (x A^T) B^T + b     S = 1 (none), diag(mean |x_j|^alpha) (asvd), M = E[x x^T] = S S^T (svd_llm)

SVD-LLM's product has the least error on the calibration inputs of all of rank r, the sum of the dropped sigma^2 a
token. What is trained afterwards (`repair`) is our choice: the factors, or LoRA on each of them, which SVD-LLM trains
one after the other, with the model's head; or nothing. Training keeps the ranks.

Departures: A is computed without S^-1, which the authors form; M is damped by 1e-8 of its mean diagonal, where they
add to it only after a failed Cholesky; M is a mean, not a sum, so that the factors are of a size that can be trained.
`keep_ratio` is the fraction kept, where the authors' --ratio is the fraction removed. ASVD's search of ranks by
perplexity and its cache of keys and values are left out; `allocation: global` serves all three. A layer whose product
would not have fewer parameters than its weight stays dense. Layers are compressed one at a time from the last to the
first, so that each sees the inputs of the original model. A pass takes the statistics of several layers where they need
no more memory together than the largest layer's (of a model that calls a layer more than once all are taken beforehand,
and held); `sequential` goes from the first to the last, and each layer sees what the compressed ones before it make:
the authors' step 2 solves there for B alone, with A from the original model's inputs, which cannot have a lower error.
`svd: randomized` pays where the rank is less than a quarter of the smaller side; ranks by `global` need all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import features, has_values, replace
from lrexp.layers.decomposition import leading_triplets, spectrum
from lrexp.layers.factorised import FactorisedLinear, factorised_layers, make_plain
from lrexp.layers.inputs import Groups, at_rest, collect, find_groups
from lrexp.layers.lora_factors import LoRAFactors, merge_factors
from lrexp.layers.lora_layer import LoRASettings
from lrexp.linalg import whitening
from lrexp.linalg.moments import MeanMagnitude, SecondMoment
from lrexp.linalg.ranks import global_ranks, saves, uniform_rank
from lrexp.methods.adapters.lora import start
from lrexp.methods.base import Context, Decisions, Method
from lrexp.models.roles import LINEAR, head_modules, whole_layers
from lrexp.spec.errors import InputError

STREAM = "svd_compress"  # of calibration batches
LEAST = 1 << 20  # bytes of statistics that are always taken in one pass


@dataclass(frozen=True)
class SVDCompressHyperparameters:
    """How much is kept, what error is minimised, and what is trained afterwards."""

    keep_ratio: float = 0.8  # rho; paper: 0.8, "20 % compression ratio"
    budget_bytes: int | None = None  # of the target layers' weights as stored, instead of keep_ratio
    whitening: Literal["none", "asvd", "svd_llm"] = "svd_llm"
    asvd_alpha: float = 0.5  # alpha; ASVD: 0.5
    allocation: Literal["uniform", "global"] = "uniform"  # paper: the same ratio for every layer
    sequential: bool = False  # each layer on the inputs that the compressed layers before it give
    calibration_batches: int = 16  # paper: 256 sequences in all
    calibration_size: int = 16
    svd: Literal["exact", "randomized"] = "exact"  # paper: exact
    svd_niter: int = 4  # subspace iterations of the randomized SVD
    svd_oversampling: int = 16  # dimensions beyond the rank, dropped at the end
    target_modules: str | tuple[str, ...] = ("attention", "mlp")  # paper: every linear layer of every block
    repair: Literal["none", "factors", "lora"] = "factors"  # paper: LoRA on A, then on B
    r: int = 8  # of the repair's LoRA; the authors' code: 8
    lora_alpha: float = 16.0  # the authors' code: 16

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        for where in ("keep_ratio", "lora_alpha"):
            if not 0 < getattr(self, where) < float("inf"):
                raise ValueError(f"{where} is {getattr(self, where)}: it is a positive number")
        if self.asvd_alpha < 0:
            raise ValueError(f"asvd_alpha is {self.asvd_alpha}: it is at least 0")
        for where in ("budget_bytes", "calibration_batches", "calibration_size", "r"):
            if getattr(self, where) is not None and getattr(self, where) < 1:
                raise ValueError(f"{where} is {getattr(self, where)}: it is at least 1")
        for where in ("svd_niter", "svd_oversampling"):
            if getattr(self, where) < 0:
                raise ValueError(f"{where} is {getattr(self, where)}: it is at least 0")


class SVDCompress(Method):
    """Factorises the target modules of a trained model, and repairs what that has cost."""

    Hyperparameters = SVDCompressHyperparameters
    size = "keep_ratio"
    keeps_base = False
    measures_base = True
    may_differ = (
        "whitening", "asvd_alpha", "sequential", "calibration_batches", "calibration_size", "svd", "svd_niter",
        "svd_oversampling",
    )  # fmt: skip

    def decide(self, model: nn.Module, context: Context) -> Decisions:
        """The ranks by the spectra of all layers of the original model; nothing where every layer has one ratio."""
        if self.hyperparameters.allocation == "uniform":
            return Decisions()
        shapes = self._targets(model, context)
        spectra: dict[str, Tensor] = {}
        for names, root in self._roots(model, list(shapes), context):
            spectra |= {name: self._spectrum(name, matrix(model, name), root, context).cpu() for name in names}
        budget = int(self._keep_ratio(model, shapes) * sum(m * n for m, n in shapes.values()))
        try:
            found = global_ranks([spectra[name] for name in shapes], list(shapes.values()), budget)
        except ValueError as error:
            raise InputError(f"keep_ratio or budget_bytes: {error}") from error
        return Decisions({"ranks": {name: r for name, r in zip(shapes, found, strict=True) if r is not None}})

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Compresses the layers one at a time; on shapes alone the structure is all."""
        ranks = self._ranks(model, decisions, context)
        if not has_values(next(model.parameters())):
            return self._structure(model, ranks, context)
        for names, root in self._roots(model, list(ranks), context):
            for name in names:
                replace(model, {name: self.compressed(name, model.get_submodule(name), ranks[name], root, context)})
            del root
        return self._trained(model, context)

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """The structure: every number of the model is among what was kept."""
        return self._structure(model, self._ranks(model, decisions, context), context)

    def compressed(self, name: str, base: nn.Module, r: int, root: Tensor | None, context: Context) -> FactorisedLinear:
        """The layer of rank r for a layer whose inputs have this square root of their second moment."""
        values, W = self.hyperparameters, in_rows(base)
        draw = None if values.svd == "exact" else partial(_omega, name=name, context=context)
        cache = context.cache if root is None else None
        try:
            scaled = whitening.scaled(W, root)
            U, S, _ = leading_triplets(scaled, r, values.svd_niter, values.svd_oversampling, draw, cache)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        del scaled
        layer = FactorisedLinear(base, r)
        layer.set_factors(*whitening.factors(W, U, S))
        return layer

    def finalize(self, model: nn.Module) -> nn.Module:
        """Plain layers of the original classes, each the product of its factors."""
        return make_plain(merge_factors(model))

    def metrics(self) -> dict[str, float]:
        """The fraction of the target layers' parameters that is kept, and the mean rank of the factorised ones."""
        return self._kept

    def _targets(self, model: nn.Module, context: Context) -> dict[str, tuple[int, int]]:
        """(m, n) of every target module. Raises InputError for a layer that is no whole Linear or Conv1D."""
        names = whole_layers(model, self.hyperparameters.target_modules, context.head, LINEAR)
        return {name: features(model.get_submodule(name)) for name in names}

    def _keep_ratio(self, model: nn.Module, shapes: Mapping[str, tuple[int, int]]) -> float:
        values = self.hyperparameters
        if values.budget_bytes is None:
            return values.keep_ratio
        return values.budget_bytes / sum(matrix(model, name).nbytes for name in shapes)

    def _ranks(self, model: nn.Module, decisions: Decisions, context: Context) -> dict[str, int]:
        """The rank of every layer that is factorised: as decided, else by the ratio of each alone."""
        shapes = self._targets(model, context)
        ratio = self._keep_ratio(model, shapes)
        ranks = decisions.values.get("ranks")
        if ranks is None:
            ranks = {name: uniform_rank(m, n, ratio) for name, (m, n) in shapes.items()}
            for name, r in ranks.items():
                if r < 1:
                    least = sum(shapes[name]) / (shapes[name][0] * shapes[name][1])
                    raise InputError(
                        f"{name} would have rank 0: it needs a keep_ratio of {least:.4f}, this is {ratio:.4f}"
                    )
        ranks = {name: ranks[name] for name in shapes if name in ranks and saves(*shapes[name], ranks[name])}
        held = sum(r * sum(shapes[name]) for name, r in ranks.items())
        dense = sum(m * n for name, (m, n) in shapes.items() if name not in ranks)
        self._kept = {"kept_ratio": (held + dense) / sum(m * n for m, n in shapes.values())}
        if ranks:
            self._kept["mean_rank"] = sum(ranks.values()) / len(ranks)
        return ranks

    def _roots(
        self, model: nn.Module, names: list[str], context: Context
    ) -> Iterator[tuple[tuple[str, ...], Tensor | None]]:
        """Layers that share their inputs, group by group, with the square root of those inputs' second moment."""
        values = self.hyperparameters
        if values.whitening == "none":
            yield from (((name,), None) for name in names)
            return
        if not names:
            return
        assert context.calibration is not None and context.task_loss is not None
        first = next(iter(context.calibration(STREAM, 1, values.calibration_size)))
        with at_rest(model), torch.no_grad():
            groups = find_groups(model, names, partial(context.task_loss, model, first))
        missing = [name for name in names if name not in groups.reached]
        if missing:
            raise InputError(f"{missing[0]} is never called: there are no inputs to compress it by, leave it out")
        leaders = [name for name in groups.reached if groups.leader[name] == name]
        order = leaders if values.sequential else leaders[::-1]
        sizes = {leader: 8 * features(model.get_submodule(leader))[1] ** 2 for leader in order}  # bytes of the moment
        passes = [[leader] for leader in order] if values.sequential else packed(sizes, max(LEAST, *sizes.values()))
        found = (pair for together in passes for pair in self._gathered(model, together, groups, context))
        is_shared = any(groups.calls[leader] > 1 for leader in leaders)  # its later calls would see compressed layers
        yield from list(found) if is_shared and not values.sequential else found

    def _gathered(
        self, model: nn.Module, leaders: list[str], groups: Groups, context: Context
    ) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """The groups of these leaders with their roots, by one pass over the calibration batches."""
        values = self.hyperparameters
        assert context.calibration is not None and context.task_loss is not None
        batches = context.calibration(STREAM, values.calibration_batches, values.calibration_size)
        statistics = {leader: MeanMagnitude() if values.whitening == "asvd" else SecondMoment() for leader in leaders}
        collect(model, {leader: groups.calls[leader] for leader in leaders}, batches, context.task_loss, statistics)
        for leader in leaders:
            yield tuple(groups.members(leader)), self._root(leader, statistics.pop(leader))

    def _root(self, leader: str, statistic: MeanMagnitude | SecondMoment) -> Tensor:
        try:
            if isinstance(statistic, MeanMagnitude):
                return whitening.diagonal_root(statistic.mean(), self.hyperparameters.asvd_alpha)
            return whitening.root(statistic.total).div_(max(1, statistic.tokens) ** 0.5)
        except ValueError as error:
            raise InputError(f"{leader}: {error}") from error

    def _spectrum(self, name: str, W: Tensor, root: Tensor | None, context: Context) -> Tensor:
        try:
            return spectrum(whitening.scaled(W, root), context.cache if root is None else None)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error

    def _structure(self, model: nn.Module, ranks: Mapping[str, int], context: Context) -> nn.Module:
        for name, r in ranks.items():
            replace(model, {name: FactorisedLinear(model.get_submodule(name), r)})
        return self._trained(model, context)

    def _trained(self, model: nn.Module, context: Context) -> nn.Module:
        """The model with what the repair trains set to be trained."""
        values = self.hyperparameters
        model.requires_grad_(False)
        if values.repair == "none":
            return model
        for name in head_modules(model, context.head):
            model.get_submodule(name).requires_grad_(True)
        for name, layer in factorised_layers(model).items():
            if values.repair == "factors":
                layer.A.requires_grad_(True)
                layer.B.requires_grad_(True)
                continue
            settings = LoRASettings(values.r, values.lora_alpha, dtype=context.dtype, device=context.device)
            around = LoRAFactors(name, layer, settings)
            for factor, lora in (("A", around.inner), ("B", around.outer)):
                if has_values(lora.lora_A):
                    lora.set_factors(*start(lora, "kaiming", context.generator(f"init:{name}.{factor}")))
            replace(model, {name: around})
        return model


def packed(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """The names in their order, as many together as sum up to `most` at most, one of them at least."""
    found: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not found or size > room:
            found.append([])
            room = most
        found[-1].append(name)
        room -= size
    return found


def _omega(shape: tuple[int, int], name: str, context: Context) -> Tensor:
    """The Gaussian test matrix of a layer's randomized SVD."""
    return torch.randn(shape, generator=context.generator(f"omega:{name}"))


def in_rows(base: nn.Module) -> Tensor:
    """The weight of a Linear or Conv1D as (out, in)."""
    weight: Tensor = base.weight  # type: ignore[assignment]
    return weight.T if isinstance(base, Conv1D) else weight


def matrix(model: nn.Module, name: str) -> Tensor:
    """The weight of the layer of this name as (out, in)."""
    return in_rows(model.get_submodule(name))
