"""LoRA-GA: LoRA that starts from singular vectors of the loss gradient, so that its first step follows full training's.

Wang, Yu, Li 2024, arXiv 2407.05000.

    G = mean over N batches of dL/dW = U diag(S) V^T   (m, n)
    A0 = c V_{1:r}^T     B0 = c U_{r+1:2r}     c = m^(1/4) / sqrt(gamma)     W_res = W - s B0 A0
    y = x W_res^T + b + s (x A^T) B^T          s = alpha / sqrt(r)

A and B are trained, W_res and b frozen. One step of SGD changes s B A by about -lr s^2 (B0 B0^T G + G A0^T A0): r left
and r other right directions make the best approximation of G of rank 2 r that such a step can reach. A paper's formula
with gamma in place of its root is a typo, says its author. Dropout would drop part of the pre-trained function: there
is no such field.

Where we depart from the code: rows of A and columns of B have canonical signs, since they come from different triplets
and the signs change W_res; the gradient pass runs in evaluation mode (the authors': with dropout, whose noise a handful
of samples does not average away), on samples drawn by the seed (theirs: the first); the weights stay frozen in it, and
G is held as a product of inputs and output gradients, cut to its 8 r leading triplets, wherever that is smaller than G
itself (`lrexp.linalg.running_product`). `flavour: peft` is PEFT's port, which is another method: singular values go
into B, A is not scaled. Layers other than Linear and Conv1D, and such with min(m, n) < 2 r, are refused, where the
authors' code starts the former as plain LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import features, has_values
from lrexp.layers.decomposition import sketched_triplets
from lrexp.layers.inputs import at_rest
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.weight_gradients import backward
from lrexp.linalg.running_product import CutProduct, DenseSum, running_sum
from lrexp.linalg.svd import Triplets, canonical_rows, test_shape
from lrexp.methods.adapters.lora import LoRA, LowRankHyperparameters
from lrexp.methods.base import Context, Decisions
from lrexp.models.roles import Slices, selection
from lrexp.spec.errors import InputError

KEPT = 4  # triplets of a cut gradient, times the 2 r that are used


@dataclass(frozen=True)
class LoRAGAHyperparameters(LowRankHyperparameters):
    """LoRA-GA's settings."""

    use_rslora: bool = True  # paper: yes
    direction: Literal["ArB2r", "A2rBr", "ArBr", "random"] = "ArB2r"  # which singular vectors A and B take
    scale: Literal["stable", "unit", "gd", "weightS"] = (
        "stable"  # c above; 1; 1 / s; mean root of the weight's sigma / s
    )
    stable_gamma: float = 16.0  # gamma; paper: 16; its author advises less for narrow models
    norm_clip: bool = False  # no entry of what is taken out of W above W's largest
    flavour: Literal["paper", "peft"] = "paper"  # peft: PEFT's port, for comparison
    svd_niter: int = 4  # subspace iterations of the randomized SVD with 4 r dimensions; the authors: 4
    calibration_batches: int = 8  # N; paper: 8 samples
    calibration_batch_size: int = 1  # items a batch

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range and a scale that PEFT's port does not have."""
        super().__post_init__()
        if not 0 < self.stable_gamma < math.inf:
            raise ValueError(f"stable_gamma is {self.stable_gamma}: it is a positive number")
        for where, count, least in (
            ("svd_niter", self.svd_niter, 0),
            ("calibration_batches", self.calibration_batches, 1),
            ("calibration_batch_size", self.calibration_batch_size, 1),
        ):
            if count < least:
                raise ValueError(f"{where} is {count}: it is at least {least}")
        if self.flavour == "peft" and self.scale == "weightS":
            raise ValueError("scale is weightS: flavour peft has stable, unit and gd")


class LoRAGA(LoRA):
    """LoRA with another start."""

    Hyperparameters = LoRAGAHyperparameters
    may_differ = (
        "lr_multipliers",
        "direction", "scale", "stable_gamma", "norm_clip", "flavour", "svd_niter",
        "calibration_batches", "calibration_batch_size",
    )  # fmt: skip

    def decide(self, model: nn.Module, context: Context) -> Decisions:
        """The 2 r leading triplets of every target's gradient; the model is left as it was."""
        values = self.hyperparameters
        targets = selection(model, values.target_modules, context.head)
        ranks = self.ranks(model, list(targets), Decisions())
        sums = {name: self.sums(model, name, targets[name], ranks[name], context) for name in targets}
        seen = set()

        def take(name: str, g: Tensor, x: Tensor) -> None:
            seen.add(name)
            slices = targets[name] or (True,)
            parts = [part for part, on in zip(g.chunk(len(slices), dim=1), slices, strict=True) if on]
            for part, held in zip(parts, sums[name], strict=True):
                held.add(part, x)

        assert context.calibration is not None and context.task_loss is not None
        task_loss, N = context.task_loss, values.calibration_batches
        with at_rest(model):
            for batch in context.calibration("lora_ga", N, values.calibration_batch_size):
                backward(model, list(targets), take, lambda: task_loss(model, batch) / N)  # noqa: B023 (run at once)
        for name in targets:
            if name not in seen:
                raise InputError(f"{name}: the loss does not depend on it, it has no gradient; leave it out")
        tensors, norms, spectra = {}, {}, {}
        for name, held in sums.items():
            found = [self.triplets(each, 2 * ranks[name], f"{name}:{j}", context) for j, each in enumerate(held)]
            for part in Triplets._fields:
                tensors[f"{name}.{part}"] = torch.stack([getattr(triplets, part) for triplets in found])
            norms[name] = [each.norm() for each in held]
            spectra[name] = [triplets.S.tolist() for triplets in found]
        return Decisions({"gradient_norm": norms, "gradient_singular_values": spectra}, tensors)

    def sums(
        self, model: nn.Module, name: str, slices: Slices, r: int, context: Context
    ) -> Sequence[DenseSum | CutProduct]:
        """What takes in the gradient of one layer, one for each of its slices that are adapted."""
        base = model.get_submodule(name)
        m, n = features(base)
        m //= max(1, len(slices))
        refuse_unfit(name, base, m, n, r)
        return [self.sum(m, n, r, f"{name}:{j}", context) for j in range(sum(slices) or 1)]

    def sum(self, m: int, n: int, r: int, name: str, context: Context) -> DenseSum | CutProduct:
        """What takes in the gradient of an (m, n) matrix."""
        p = min(KEPT * 2 * r, m, n)
        return running_sum(m, n, self.omega((min(m, n), p), f"cut:{name}", context))

    def triplets(self, held: DenseSum | CutProduct, k: int, name: str, context: Context) -> Triplets:
        """The k = 2 r leading triplets, by the authors' randomized SVD of 2 k dimensions."""
        shape = test_shape((held.shape[0], held.shape[1]), k, k)
        try:
            return held.triplets(k, self.hyperparameters.svd_niter, self.omega(shape, f"gradient:{name}", context))
        except ValueError as error:
            raise InputError(f"{name.rpartition(':')[0]}, gradient: {error}") from error

    def omega(self, shape: tuple[int, int], name: str, context: Context) -> Tensor:
        """A Gaussian test matrix."""
        return torch.randn(shape, generator=context.generator(f"omega:{name}"))

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """Sets A0 and B0 from the gradient's triplets and takes their product out of the base."""
        matrices = layer.matrices()
        m, n = matrices[0].shape
        refuse_unfit(name, layer.base, m, n, layer.r)
        if has_values(layer.lora_A):
            parts = [decisions.tensors[f"{name}.{part}"].to(layer.lora_A.device) for part in Triplets._fields]
            pairs = [
                self.factors(layer, W, Triplets(*triplets), f"{name}:{j}", context)
                for j, (W, *triplets) in enumerate(zip(matrices, *parts, strict=True))
            ]
            layer.set_factors(torch.stack([A for A, _ in pairs]), torch.stack([B for _, B in pairs]))
        layer.take_from_base()

    def factors(self, layer: LoRALayer, W: Tensor, G: Triplets, name: str, context: Context) -> tuple[Tensor, Tensor]:
        """A0 (r, n) and B0 (m, r) for one matrix W (m, n) and its gradient's triplets."""
        values = self.hyperparameters
        of_A, of_B = self.directions(layer.r, name, context)
        A, B = self.signed(G.Vh[of_A], G.U[:, of_B])
        if values.flavour == "peft":
            B = B * G.S[of_B]
        scale = self.scale(layer, W, name, context)
        A, B = A * (1.0 if values.flavour == "peft" and values.scale == "stable" else scale), B * scale
        if values.norm_clip:
            ratio = W.abs().max().to(B) / (layer.scaling * B @ A).abs().max()
            A, B = A * ratio.clamp_max(1).sqrt(), B * ratio.clamp_max(1).sqrt()
        return A, B

    def directions(self, r: int, name: str, context: Context) -> tuple[Tensor, Tensor]:
        """Which of the 2 r triplets give A its rows and B its columns."""
        both = torch.arange(2 * r)
        match self.hyperparameters.direction:
            case "ArB2r":
                return both[:r], both[r:]
            case "A2rBr":
                return both[r:], both[:r]
            case "ArBr":
                return both[1::2], both[0::2]
            case _:
                drawn = torch.randperm(2 * r, generator=context.generator(f"direction:{name}"))
                return drawn[:r], drawn[r:]

    def signed(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Each row of A and each column of B with its entry of largest magnitude positive."""
        return canonical_rows(A), canonical_rows(B.mT).mT

    def scale(self, layer: LoRALayer, W: Tensor, name: str, context: Context) -> float | Tensor:
        """The factor on unit vectors."""
        values, r = self.hyperparameters, layer.r
        match values.scale:
            case "stable":
                return W.shape[0] ** 0.25 / math.sqrt(values.stable_gamma)
            case "unit":
                return 1.0
            case "gd":
                return 1 / layer.scaling
            case _:
                omega = self.omega(test_shape((W.shape[0], W.shape[1]), r, 3 * r), f"weight:{name}", context)
                S = sketched_triplets(W, r, values.svd_niter, 3 * r, omega, context.cache).S
                return (S / layer.scaling).sqrt().mean()


def refuse_unfit(name: str, base: nn.Module, m: int, n: int, r: int) -> None:
    """Raises InputError for a layer without output gradients and inputs, or without 2 r singular vectors."""
    if not isinstance(base, nn.Linear | Conv1D):
        raise InputError(f"{name} is a {type(base).__name__}: LoRA-GA needs a Linear or Conv1D; leave it out")
    if 2 * r > min(m, n):
        raise InputError(
            f"r is {r} for {name}, ({m}, {n}): LoRA-GA takes 2 r singular vectors, so choose r <= {min(m, n) // 2}"
        )
