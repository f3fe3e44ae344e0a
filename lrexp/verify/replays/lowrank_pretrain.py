"""Replays of low-rank pretraining: one pass and training from given factors, the spectral start, Frobenius decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrexp.linalg.svd import exact_svd
from lrexp.methods.base import Micro
from lrexp.methods.pretraining.lowrank_pretrain import LowRankPretrain
from lrexp.spec.convert import from_mapping
from lrexp.verify import pretraining
from lrexp.verify.adapters import TARGET
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


def lowrank_pretrain(case: Case, **more: Any) -> LowRankPretrain:
    """The method with the hyperparameters of the case and `more`."""
    section = {"rank": case.hyperparameters["rank"], "target_modules": [TARGET], **more}
    return LowRankPretrain(from_mapping(LowRankPretrain.Hyperparameters, section, "method"))


def from_given_factors(case: Case) -> LowRankPretrain:
    """The method where the factors are replaced by the case's: how they start is of no matter."""
    return lowrank_pretrain(case, lora_alpha=case.hyperparameters["lora_alpha"], init="kaiming")


@replay("lowrank_pretrain", "forward_backward", results=("scaling",))
def forward_backward(case: Case) -> Outcome:
    """All gradients of one pass."""
    model, layer = pretraining.prepared(from_given_factors(case), case)
    outcome = pretraining.gradients(model, layer, case, pretraining.start(layer, case, {}))
    outcome.results["scaling"] = layer.scaling
    return outcome


@replay("lowrank_pretrain", "train", results=("scaling",))
def train(case: Case) -> Outcome:
    """The outputs of all steps and what they end at."""
    method = from_given_factors(case)
    model, layer = pretraining.prepared(method, case)
    return pretraining.trained(method, model, layer, case, pretraining.start(layer, case, {}))


@replay("lowrank_pretrain", "init_spectral")
def init_spectral(case: Case) -> Outcome:
    """The start from a dense weight; from the stored factors on, the gradient of the Frobenius decay."""
    method = lowrank_pretrain(
        case, init=case.hyperparameters["init"], decay="frobenius", lam=case.hyperparameters["lam"]
    )
    W0 = case["W0"]
    model, layer = pretraining.prepared(method, case, W0)
    A, B = layer.A.detach().clone(), layer.B.detach().clone()
    found: dict[str, Tensor] = {"s": exact_svd(W0).S, "A0": A, "B0": B, "W": layer.dense_weight(W0.dtype)}
    found |= {"BBt": B @ B.t(), "AtA": A.t() @ A}
    parameters = pretraining.start(layer, case, {})
    loss = method.loss(model, {}, lambda *_: W0.new_zeros(()), Micro(0, True, 1.0))
    gradients = torch.autograd.grad(loss, [parameters["A"], parameters["B"]])
    return Outcome(found | dict(zip(("dA_fd", "dB_fd"), gradients, strict=True)))
