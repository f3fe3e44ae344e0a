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
from lrexp.linalg.svd import exact_svd
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
    collect(one_layer(linear(W, None)), TARGET, 1, [{"x": X}], forward, moment)
    root = whitening.root(moment.total)
    U, S, _ = exact_svd(whitening.scaled(W, root), min(rank, m, n))
    A, B = whitening.factors(W, U, S)
    found = {"gram": moment.total, "chol": root, "svd_llm_u": B, "svd_llm_v": A}
    found |= {"rank": torch.tensor(rank), "plain_fro_error": spectrum(W.double(), None)[rank:].square().sum()}
    for name, kind in KINDS.items():
        found[f"{name}_W"] = product(case, kind, keep_ratio)
        error = X.double() @ (W.double() - found[f"{name}_W"].double()).T
        found[f"err_{name.replace('_', '')}"] = error.square().sum()
    return Outcome(found)


def product(case: Case, kind: str, keep_ratio: float) -> Tensor:
    """The weight of the case's layer after it was compressed and made plain again."""
    section: dict[str, Any] = {"keep_ratio": keep_ratio, "whitening": kind, "target_modules": [TARGET]}
    section |= {"asvd_alpha": float(case.hyperparameters["asvd_alpha"]), "calibration_batches": 1, "repair": "none"}
    method = SVDCompress(from_mapping(SVDCompress.Hyperparameters, section, "method"))
    model = one_layer(linear(case["W"], case.get("b")))
    context = Context(
        seed=0, total_steps=0, device=torch.device("cpu"), dtype=case["W"].dtype, task_loss=forward,
        calibration=lambda name, count, size: iter([{"x": case["X"]}]),
    )  # fmt: skip
    model = method.prepare(model, method.decide(model, context), context)
    (layer,) = method.finalize(model).children()
    return layer.weight.detach()  # type: ignore[operator]


def forward(model: torch.nn.Module, batch: Any) -> Tensor:
    """The layer's output for the inputs of the case."""
    return model(batch["x"])
