"""SLTrain: every linear layer of the blocks is trained from scratch as a low-rank product plus a sparse matrix.

Han et al. 2024, arXiv 2406.02214 (NeurIPS 2024), section 3; code read: andyjm3/SLTrain, commit 2335d62.

    y = x W^T + b      W = s B A + S      A (r, n), B (m, r), s = alpha / r, S = v on a support of floor(delta m n)

A, B, v, the biases and all other parameters of the model are trained; the support is drawn once, uniformly without
replacement, and stays. Start: A and v uniform in +-1/sqrt(n), B zero. A layer holds r (m + n) + nnz numbers and nnz
indices instead of m n, and W itself is neither kept nor, where that is quicker, built (lrexp.layers).

Departures from the code: indices take 2 or 4 bytes instead of 8 and are drawn without a permutation of all m n
positions; the support comes from the run's seed and the layer's name; a bias starts in +-1/sqrt(n), where the code
takes the number of outputs (`init_bias: out_features`); its lora_dropout, accepted and never used, does not exist.
With trainable_scaling s is tanh(p), p from 1, and lora_alpha is without effect, as in the code. Weight decay acts on v
as on a matrix. The whole ends as a plain model: the sum is merged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import features, has_values, replace
from lrexp.layers.factorised import make_plain
from lrexp.layers.sparse_low_rank import SparseLowRankLinear
from lrexp.linalg.sparse import draw_support
from lrexp.methods.base import Context, Decisions, Method
from lrexp.methods.pretraining.memory import nonzeros
from lrexp.methods.pretraining.targets import ranks
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class SLTrainHyperparameters:
    """SLTrain's settings."""

    rank: int | None = None  # r; None: a quarter of a layer's smaller side; paper: 128 (60M) to 1024 (7B)
    sp_ratio: float = 0.03  # delta; paper: 0.03, 0.05 for 7B
    lora_alpha: float = 32.0  # alpha; paper: 32 (60M), 16 (130M, 350M), 8 (1B, 7B)
    trainable_scaling: bool = False  # s = tanh(p), p trained
    target_modules: str | tuple[str, ...] = ("attention", "mlp")  # the paper's: all linears of a block
    init_bias: Literal["in_features", "out_features"] = "in_features"  # the code: out_features

    def __post_init__(self) -> None:
        """Raises ValueError for a rank, ratio or alpha out of range."""
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank is {self.rank}: it is at least 1, or null")
        if not 0 < self.sp_ratio < 1:
            raise ValueError(f"sp_ratio is {self.sp_ratio}: it is above 0 and below 1")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha is {self.lora_alpha}: it is a positive number")


class SLTrain(Method):
    """Replaces the target modules by sparse-plus-low-rank layers; all that the model trains is trained."""

    Hyperparameters = SLTrainHyperparameters
    size = "rank"
    keeps_base = False
    may_differ = ("init_bias",)

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Draws factors, values and support of every layer by the seed and the layer's name."""
        layers = self._layers(model, context)
        for name, layer in layers.items():
            if has_values(layer.A):
                self.initialise(layer, name, context)
        replace(model, layers)
        return model

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """The same layers with the support that was kept; nothing is drawn."""
        layers = self._layers(model, context)
        for name, layer in layers.items():
            layer.support.copy_(tensors[f"{name}.support"])
        replace(model, layers)
        return model

    def _layers(self, model: nn.Module, context: Context) -> dict[str, SparseLowRankLinear]:
        values = self.hyperparameters
        layers = {}
        for name, r in ranks(model, values.target_modules, context.head, values.rank).items():
            base = model.get_submodule(name)
            nnz = nonzeros(values.sp_ratio, *features(base))
            if nnz == 0:  # with B = 0 the whole layer would be 0, and stay so between others of its kind
                raise InputError(f"sp_ratio is {values.sp_ratio}: it leaves {name} without a single entry")
            layers[name] = SparseLowRankLinear(base, r, nnz, values.lora_alpha / r, values.trainable_scaling)
        return layers

    @torch.no_grad()
    def initialise(self, layer: SparseLowRankLinear, name: str, context: Context) -> None:
        """Sets a layer's start. Numbers are drawn in float32 on the CPU, so that they do not depend on the machine."""
        (_, n), (m, _), nnz = layer.A.shape, layer.B.shape, layer.v.numel()

        def uniform(part: str, count: int, bound: float) -> Tensor:
            generator = context.generator(f"{part}:{name}")
            return torch.empty(count).uniform_(-bound, bound, generator=generator)

        layer.A.copy_(uniform("A", layer.A.numel(), 1 / math.sqrt(n)).view_as(layer.A))
        layer.B.zero_()
        layer.v.copy_(uniform("v", nnz, 1 / math.sqrt(n)))
        layer.support.copy_(draw_support(m * n, nnz, context.generator(f"support:{name}")))
        if layer.bias is not None:
            bound = 1 / math.sqrt(n if self.hyperparameters.init_bias == "in_features" else m)
            layer.bias.copy_(uniform("bias", m, bound))

    def decayed(self, model: nn.Module) -> set[str]:
        """Matrices, and the values of S, a vector in memory alone."""
        layers = (name for name, module in model.named_modules() if isinstance(module, SparseLowRankLinear))
        return super().decayed(model) | {f"{name}.v" for name in layers}

    def finalize(self, model: nn.Module) -> nn.Module:
        """Merges every layer into a plain one of the original class."""
        return make_plain(model)
