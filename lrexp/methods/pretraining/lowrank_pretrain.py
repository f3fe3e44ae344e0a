"""Low-rank pretraining: every linear layer of the blocks is trained from scratch as a product of two thin factors.

The baseline "Low-Rank" of GaLore (arXiv 2403.03507), ReLoRA (2307.05695) and SLTrain (2406.02214), none of which
publish its start. Starts and decay: Khodak et al. 2021, arXiv 2105.01029, sections 3 and 4; code read for the layer:
Guitaricet/relora, commit 176f376 (its factor-only mode).

    y = s (x A^T) B^T + b      A (r, n), B (m, r), s = lora_alpha / r, 1 by default

A, B, the biases and all other parameters of the model are trained; the rank of a weight stays at most r. `init`:
- spectral: the best approximation of rank r of the dense start W0 that the architecture draws: B = U_r sqrt(S_r / s),
  A = sqrt(S_r / s) V_r^T; randomized above 2048 on the smaller side.
- gauss: A, B normal, with Var((s B A)_ij) = the mean square of W0.
- kaiming: each factor as a Linear of its own starts, uniform in +-1/sqrt(of its inputs).
- lora: A uniform, B zero. With B = 0 in value and output projection, in query and key, or in two layers of an MLP the
  gradients of their factors are exactly 0, for ever: refused there. The baselines' papers do not mention it.
`decay`: `weight` is the optimizer's weight decay on A and B, `none` keeps that from them, `frobenius` adds
lam/2 ||s B A||_F^2 to the loss, computed from the two r x r Gram matrices: its gradients are lam s^2 (B^T B) A and
lam s^2 B (A A^T), and B A is never formed. The logged training loss has that term in it.

The factor-only code drops the bias; here it stays the base's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import has_values, replace
from lrexp.layers.decomposition import leading_triplets
from lrexp.layers.factorised import FactorisedLinear, factorised_layers, make_plain
from lrexp.linalg.svd import Triplets
from lrexp.methods.base import Batch, Context, Decisions, Method, Micro, TaskLoss
from lrexp.methods.pretraining.targets import ranks
from lrexp.models.roles import plays
from lrexp.spec.errors import InputError

EXACT_UP_TO = 2048  # smaller side of a weight whose SVD is taken whole
ITERATIONS, OVERSAMPLING = 2, 10  # of the randomized SVD above that
# Roles of a block that must not both start at zero: the one passes nothing on to the other, or no gradient back to it.
DEAD_PAIRS = (("q", "k"), ("v", "o"), ("up", "down"), ("gate", "down"), ("gate", "up"))

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LowRankPretrainHyperparameters:
    """Settings of low-rank pretraining."""

    rank: int | None = None  # r; None: a quarter of a layer's smaller side; papers: 128 (60M) to 1024 (7B)
    lora_alpha: float | None = None  # s = alpha / r; None: s = 1
    init: Literal["spectral", "gauss", "kaiming", "lora"] = "spectral"
    decay: Literal["weight", "none", "frobenius"] = "weight"
    lam: float = 1e-4  # of decay frobenius
    target_modules: str | tuple[str, ...] = ("attention", "mlp")  # the papers': all linears of a block

    def __post_init__(self) -> None:
        """Raises ValueError for a rank, alpha or lam out of range."""
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank is {self.rank}: it is at least 1, or null")
        if self.lora_alpha is not None and not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha is {self.lora_alpha}: it is a positive number, or null")
        if not 0 <= self.lam < math.inf:
            raise ValueError(f"lam is {self.lam}: it is at least 0")


class LowRankPretrain(Method):
    """Replaces the target modules by products of factors; all that the model trains is trained."""

    Hyperparameters = LowRankPretrainHyperparameters
    size = "rank"
    keeps_base = False
    may_differ = ("init", "decay", "lam")

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Draws or decomposes the factors of every layer, one at a time: its dense weight goes as they come."""
        found = self._ranks(model, context)
        if self.hyperparameters.init == "lora":
            refuse_dead_point(list(found))
        for name, r in found.items():
            base = model.get_submodule(name)
            layer = self._layer(base, r)
            weight: Tensor = base.weight  # type: ignore[assignment]
            factors = self.factors(
                weight.detach().t() if layer.is_transposed else weight.detach(), layer, name, context
            )
            if has_values(layer.A):
                layer.set_factors(*factors)
            replace(model, {name: layer})
        return model

    def reload(
        self, model: nn.Module, decisions: Decisions, context: Context, tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        """The same layers without values: nothing is drawn or decomposed for what is copied in."""
        for name, r in self._ranks(model, context).items():
            replace(model, {name: self._layer(model.get_submodule(name), r)})
        return model

    def _ranks(self, model: nn.Module, context: Context) -> dict[str, int]:
        return ranks(model, self.hyperparameters.target_modules, context.head, self.hyperparameters.rank)

    def _layer(self, base: nn.Module, r: int) -> FactorisedLinear:
        alpha = self.hyperparameters.lora_alpha
        return FactorisedLinear(base, r, 1.0 if alpha is None else alpha / r)

    def factors(self, W0: Tensor, layer: FactorisedLinear, name: str, context: Context) -> Factors:
        """A (r, n) and B (m, r) to start from in place of the dense start W0 (m, n)."""
        init, s, r = self.hyperparameters.init, layer.scaling, layer.r
        if init == "spectral":
            U, S, Vh = triplets(W0, r, name, context)
            root = (S / s).sqrt()
            return root[:, None] * Vh, U * root
        (m, n), generator = W0.shape, context.generator(f"factors:{name}")
        A, B = torch.empty(r, n), torch.empty(m, r)
        if init == "gauss":
            variance = W0.double().square().mean().item() if has_values(W0) else 1.0
            std = (variance / (s * s * r)) ** 0.25
            return A.normal_(std=std, generator=generator), B.normal_(std=std, generator=generator)
        A.uniform_(-1 / math.sqrt(n), 1 / math.sqrt(n), generator=generator)
        if init == "lora":
            return A, B.zero_()
        return A, B.uniform_(-1 / math.sqrt(r), 1 / math.sqrt(r), generator=generator)

    def decayed(self, model: nn.Module) -> set[str]:
        """Matrices; the factors only where `decay` is `weight`."""
        names = super().decayed(model)
        if self.hyperparameters.decay == "weight":
            return names
        return names - {f"{layer}.{factor}" for layer in factorised_layers(model) for factor in ("A", "B")}

    def loss(self, model: nn.Module, batch: Batch, task_loss: TaskLoss, micro: Micro) -> Tensor:
        """The task's loss, with the Frobenius decay's term if there is one."""
        loss = task_loss(model, batch)
        if self.hyperparameters.decay != "frobenius":
            return loss
        squares = [frobenius_square(layer) for layer in factorised_layers(model).values()]
        return loss + micro.share * self.hyperparameters.lam / 2 * torch.stack(squares).sum()

    def finalize(self, model: nn.Module) -> nn.Module:
        """Multiplies every product out into a plain layer of the original class."""
        return make_plain(model)


def triplets(W0: Tensor, r: int, name: str, context: Context) -> Triplets:
    """The r leading triplets of a dense start: exact, or randomized for a large one. Raises InputError."""

    def draw(shape: tuple[int, int]) -> Tensor:
        return torch.randn(shape, generator=context.generator(f"omega:{name}"))

    is_large = min(W0.shape) > EXACT_UP_TO
    try:
        return leading_triplets(W0, r, ITERATIONS, OVERSAMPLING, draw if is_large else None, context.cache)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def frobenius_square(layer: FactorisedLinear) -> Tensor:
    """||s B A||_F^2 = s^2 <B^T B, A A^T>, in float32 or better, differentiable."""
    wide = torch.promote_types(layer.A.dtype, torch.float32)
    with torch.autocast(layer.A.device.type, enabled=False):
        A, B = layer.A.to(wide), layer.B.to(wide)
        return layer.scaling**2 * ((B.t() @ B) * (A @ A.t())).sum()  # both (r, r)


def refuse_dead_point(names: list[str]) -> None:
    """Raises InputError where layers that start at B = 0 feed each other: none of their factors would ever move."""
    for first, second in DEAD_PAIRS:
        one, two = (next((n for n in names if plays(n, role)), None) for role in (first, second))
        if one and two:
            raise InputError(
                f"init=lora: with B = 0 in {one} and {two} no factor ever gets a gradient; "
                "take spectral, gauss or kaiming, or leave one of them out of target_modules"
            )
