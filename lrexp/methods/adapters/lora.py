"""LoRA: a trained low-rank product beside each frozen weight.

Hu et al. 2021, arXiv 2106.09685; scaling of rank-stabilised LoRA: Kalajdzievski 2023, arXiv 2312.03732.

    y = x W^T + b + s (drop(x) A^T) B^T      W (m, n), A (r, n), B (m, r)
    s = alpha / r, or alpha / sqrt(r) with use_rslora

A and B are trained, W and b frozen; r (m + n) parameters a layer, merged at the end as W + s B A. The start is the
code's, not the paper's: A uniform, B zero. Unlike loralib, evaluation never merges and unmerges (each toggle rounds
the weight). With a bf16 model and float32 factors the factors are drawn and kept in float32, where PEFT rounds A
once; merging float32 changes into bf16 weights loses the smallest of them. A rank above what the weight can have is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import adapt, has_values, merge
from lrexp.layers.lora import PLAIN, ConvLayout, Kinds, lora_layer
from lrexp.layers.lora_layer import LoRALayer, LoRASettings
from lrexp.layers.lora_linear import LoRALinear
from lrexp.layers.shared_input import share_inputs
from lrexp.methods.base import Context, Decisions, Group, Method
from lrexp.models.roles import pattern_values, selection

ROLES = {"lora_A": "in", "lora_B": "out", "lora_E": "scale", "lora_magnitude": "scale", "": "head"}  # by ends of names
Start = Literal["kaiming", "gaussian", "orthogonal", "default_linear"]


def check_multipliers(lr_multipliers: Mapping[str, float]) -> None:
    """Raises ValueError for an unknown role and a factor that is not positive."""
    for role, factor in lr_multipliers.items():
        if role not in ROLES.values():
            raise ValueError(f"lr_multipliers {role}: the roles are {', '.join(dict.fromkeys(ROLES.values()))}")
        if not 0 < factor < math.inf:
            raise ValueError(f"lr_multipliers {role} is {factor}: it is a positive number")


@dataclass(frozen=True)
class FactorHyperparameters:
    """What all adapters with two factors have in common; how wide they are is their own."""

    lora_alpha: float = 16.0  # alpha; the authors' scripts: 16 (RoBERTa), 32 (GPT-2)
    use_rslora: bool = False  # s = alpha / sqrt(r) instead of alpha / r
    target_modules: str | tuple[str, ...] = ("q", "v")  # roles, names or patterns; paper: query and value
    rank_pattern: dict[str, int] = field(default_factory=dict)  # other ranks for some of the targets
    alpha_pattern: dict[str, float] = field(
        default_factory=dict
    )  # other alphas; alpha / r changes with rank_pattern too
    lr_multipliers: dict[str, float] = field(default_factory=dict)  # of roles: in (A), out (B), scale, head

    def __post_init__(self) -> None:
        """Raises ValueError for ranks and scales out of range."""
        for name, r in self.rank_pattern.items():
            if r < 1:
                raise ValueError(f"rank_pattern {name} is {r}: a rank is at least 1")
        check_multipliers(self.lr_multipliers)
        alphas = [("lora_alpha", self.lora_alpha), *((f"alpha_pattern {n}", a) for n, a in self.alpha_pattern.items())]
        for where, alpha in alphas:
            if alpha is not None and not 0 < alpha < math.inf:  # some of the kin have a null of their own
                raise ValueError(f"{where} is {alpha}: it is a positive number")


@dataclass(frozen=True)
class LowRankHyperparameters(FactorHyperparameters):
    """What LoRA and those of its kin that have one rank share."""

    r: int = 8  # rank; paper: 8 (RoBERTa), 4 (GPT-2)

    def __post_init__(self) -> None:
        """Raises ValueError for ranks and scales out of range."""
        super().__post_init__()
        if self.r < 1:
            raise ValueError(f"r is {self.r}: a rank is at least 1")


@dataclass(frozen=True)
class DrawnHyperparameters(LowRankHyperparameters):
    """What those of them have in common whose factors start from a draw, with B A = 0: they can have dropout."""

    lora_dropout: float = 0.0  # on the input of A alone; paper: 0 (GLUE), 0.1 (E2E)
    init_lora_weights: Start = "kaiming"  # how A and B start; default_linear changes the model's output at the start

    def __post_init__(self) -> None:
        """Raises ValueError for a dropout out of range and an odd rank with the orthogonal start."""
        super().__post_init__()
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: it is at least 0 and below 1")
        if self.init_lora_weights == "orthogonal" and any(r % 2 for r in (self.r, *self.rank_pattern.values())):
            raise ValueError("init_lora_weights orthogonal needs even ranks: it splits them into two halves")


@dataclass(frozen=True)
class LoRAHyperparameters(DrawnHyperparameters):
    """LoRA's own settings."""

    conv_layout: ConvLayout = "peft"  # Conv2d: two convolutions (peft), or a reshaped product of rank r k (loralib)


class LoRA(Method):
    """Wraps the target modules; its kin start the factors otherwise (`initialise`) or choose the ranks (`ranks`)."""

    Hyperparameters = LoRAHyperparameters
    diagonal: ClassVar[bool] = False  # whether the layers have a vector E between the factors
    size = "r"
    kinds: ClassVar[Kinds] = PLAIN  # classes of its layers, where they are not LoRA's
    may_differ = ("lora_dropout", "init_lora_weights", "lr_multipliers")

    def __init__(self, hyperparameters: Any) -> None:
        super().__init__(hyperparameters)
        self.adapters: dict[str, LoRALayer] = {}  # of the prepared model, until they are merged

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Replaces the target modules by LoRA layers; they and the head are trained, all else is frozen."""
        return self.wrapped(
            model, decisions, context, lambda layer, name: self.initialise(layer, name, decisions, context)
        )

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """The same layers; a start that was taken from the base is taken from it again, as it was kept."""

        def restart(layer: LoRALayer, name: str) -> None:
            if f"{name}.lora_A0" in tensors:
                layer.take(tensors[f"{name}.lora_A0"], tensors[f"{name}.lora_B0"])

        return self.wrapped(model, decisions, context, restart)

    def wrapped(
        self, model: nn.Module, decisions: Decisions, context: Context, begin: Callable[[LoRALayer, str], None]
    ) -> nn.Module:
        """The model with its target modules replaced; `begin` sets the factors of each new layer.

        `prepare` and `reload` both end here: what a method needs of the model or of the context later it notes here.
        """
        values = self.hyperparameters
        targets = selection(model, values.target_modules, context.head)
        ranks = self.ranks(model, list(targets), decisions)
        alphas = self.alphas(model, list(targets), ranks)
        layers: dict[str, LoRALayer] = {}
        for name, r in ranks.items():
            settings = LoRASettings(
                r=r,
                lora_alpha=alphas[name],
                use_rslora=getattr(values, "use_rslora", False),  # not every kin of LoRA has these
                lora_dropout=getattr(values, "lora_dropout", 0.0),
                dtype=context.dtype,
                device=context.device,
                diagonal=self.diagonal,
            )
            layout: ConvLayout = getattr(values, "conv_layout", "peft")
            base = model.get_submodule(name)
            layers[name] = lora_layer(name, base, settings, targets[name], layout, self.kinds)
            begin(layers[name], name)
        share_inputs({name: layer for name, layer in layers.items() if isinstance(layer, LoRALinear)})
        self.adapters = layers
        return adapt(model, layers, context.head)

    def ranks(self, model: nn.Module, targets: list[str], decisions: Decisions) -> dict[str, int]:
        """The rank of every layer that gets an adapter."""
        other = pattern_values(model, self.hyperparameters.rank_pattern, targets, "rank_pattern")
        return {name: other.get(name, self.hyperparameters.r) for name in targets}

    def alphas(self, model: nn.Module, targets: list[str], ranks: Mapping[str, int]) -> dict[str, float]:
        """The alpha of every layer that gets an adapter, whose ranks are given."""
        other = pattern_values(model, self.hyperparameters.alpha_pattern, targets, "alpha_pattern")
        return {name: other.get(name, self.hyperparameters.lora_alpha) for name in ranks}

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """Sets the factors to start from, drawn by seed and layer's name: the order of layers does not matter."""
        if has_values(layer.lora_A):
            layer.set_factors(*start(layer, self.hyperparameters.init_lora_weights, context.generator(f"init:{name}")))

    def parameter_groups(self, model: nn.Module) -> list[Group]:
        """The usual groups, each cut by the rates of its parameters' roles."""
        factors = self.hyperparameters.lr_multipliers
        groups: dict[tuple[bool, float], Group] = {}
        for group in super().parameter_groups(model):
            for name, parameter in group.parameters.items():
                role = ROLES.get(name.rpartition(".")[2], ROLES[""])
                key = group.weight_decay, factors.get(role, 1.0)
                groups.setdefault(key, Group({}, *key)).parameters[name] = parameter
        return list(groups.values())

    def finalize(self, model: nn.Module) -> nn.Module:
        """Merges every layer into a plain one of the original class."""
        self.adapters = {}
        return merge(model)


def start(layer: LoRALayer, kind: Start, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factors (blocks, rank, n) and (blocks, m, rank) to start from, float32 on the CPU.

    Their product is zero but for `default_linear`. An embedding starts with A = 0 and B ~ N(0, 1).
    """
    A, B = (torch.zeros(factor.shape) for factor in layer.factors())
    bound_A, bound_B = A.shape[2] ** -0.5, B.shape[2] ** -0.5
    if kind == "orthogonal":
        pairs = [
            _orthogonal(A_j.shape[1], B_j.shape[0], A_j.shape[0], generator) for A_j, B_j in zip(A, B, strict=True)
        ]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
    if layer.starts_with_zero_A:
        B.normal_(generator=generator)
        return (A.normal_(generator=generator) if kind == "default_linear" else A), B
    if kind == "gaussian":
        return A.normal_(std=1 / layer.r, generator=generator), B
    A.uniform_(-bound_A, bound_A, generator=generator)  # kaiming uniform with a = sqrt(5): std 1 / sqrt(3 n)
    return A, B.uniform_(-bound_B, bound_B, generator=generator) if kind == "default_linear" else B


def _orthogonal(n: int, m: int, r: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A (r, n) and B (m, r), neither zero, whose product is: they live on complementary halves of a random basis."""
    Q = torch.linalg.qr(torch.randn(r, r, generator=generator)).Q
    A = (torch.randn(n, r // 2, generator=generator) @ Q[0::2]).t() / 10  # (n, r/2) @ (r/2, r)
    B = torch.randn(m, r // 2, generator=generator) @ Q[1::2] / 10  # (m, r/2) @ (r/2, r)
    return A, B
