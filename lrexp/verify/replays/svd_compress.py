"""Replays of SVD compression: one layer and its inputs, compressed plainly, by ASVD and by SVD-LLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrexp.layers.adapted import features
from lrexp.layers.decomposition import spectrum
from lrexp.layers.inputs import collect
from lrexp.linalg import whitening
from lrexp.linalg.moments import SecondMoment
from lrexp.linalg.ranks import uniform_rank
from lrexp.methods.base import Context
from lrexp.methods.compression.svd_compress import SVDCompress
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import TARGET, linear, one_layer
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay

RULES = {"rank_rule": "int(m*n*keep/(m+n))", "asvd_scale": "mean |x_j| per input channel"}
KINDS = {"plain": "none", "asvd": "asvd", "svd_llm": "svd_llm"}  # prefixes of the case, and our whitenings


@replay("svd_compress", "compress")
def compress(case: Case) -> Outcome:
    """Products come from the method's whole life; the factors are its own from the case's sum, not mean, of x x^T.

    Where the factors would not be smaller than the weight the method leaves it dense, which is the same product.
    """
    for key, rule in RULES.items():
        if case.hyperparameters.get(key, rule) != rule:
            raise ValueError(f"{key} is {case.hyperparameters[key]!r}: {rule}")
    W, X = case["W"], case["X"]
    m, n = features(linear(W, None))
    keep_ratio = float(case.hyperparameters["keep_ratio"])
    rank = uniform_rank(m, n, keep_ratio)
    moment = SecondMoment()
    collect(one_layer(linear(W, None)), {TARGET: 1}, [{"x": X}], forward, {TARGET: moment})
    root = whitening.root(moment.total)
    layer = method(keep_ratio=1.0).compressed(TARGET, linear(W, None), min(rank, m, n), root, context(case))
    found = {"gram": moment.total, "chol": root, "svd_llm_u": layer.B.detach(), "svd_llm_v": layer.A.detach()}
    found |= {"rank": torch.tensor(rank), "plain_fro_error": spectrum(W.double(), None)[rank:].square().sum()}
    for name, kind in KINDS.items():
        found[f"{name}_W"] = product(case, kind, keep_ratio)
        error = X.double() @ (W.double() - found[f"{name}_W"].double()).T
        found[f"err_{name.replace('_', '')}"] = error.square().sum()
    return Outcome(found)


def product(case: Case, kind: str, keep_ratio: float) -> Tensor:
    """The weight of the case's layer after it was compressed and made plain again."""
    alpha = float(case.hyperparameters["asvd_alpha"])
    life = method(keep_ratio=keep_ratio, whitening=kind, asvd_alpha=alpha, calibration_batches=1)
    model = one_layer(linear(case["W"], case.get("b")))
    model = life.prepare(model, life.decide(model, context(case)), context(case))
    (layer,) = life.finalize(model).children()
    return layer.weight.detach()  # type: ignore[operator]


def method(**settings: Any) -> SVDCompress:
    """The method on the only layer, without repair."""
    section = {"target_modules": [TARGET], "repair": "none", **settings}
    return SVDCompress(from_mapping(SVDCompress.Hyperparameters, section, "method"))


def context(case: Case) -> Context:
    """A run without steps, whose calibration data are the case's inputs."""
    return Context(
        seed=0, total_steps=0, device=torch.device("cpu"), dtype=case["W"].dtype, task_loss=forward,
        calibration=lambda name, count, size: iter([{"x": case["X"]}]),
    )  # fmt: skip


def forward(model: torch.nn.Module, batch: Any) -> Tensor:
    """The layer's output for the inputs of the case."""
    return model(batch["x"])
