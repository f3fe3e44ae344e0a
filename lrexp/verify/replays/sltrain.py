"""Replays of SLTrain: one forward and backward pass, training from a given start and support, counts of memory."""

from __future__ import annotations

import torch
from torch import nn

from lrexp.layers.sparse_low_rank import SparseLowRankLinear
from lrexp.methods.pretraining.memory import Sizes, estimate
from lrexp.methods.pretraining.sltrain import SLTrain
from lrexp.spec.convert import from_mapping
from lrexp.verify import pretraining
from lrexp.verify.adapters import TARGET, inject
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay

RESULTS = ("scaling", "nnz")


@replay("sltrain", "forward_backward", results=RESULTS)
def forward_backward(case: Case) -> Outcome:
    """All gradients of one pass."""
    _, model, layer, parameters = _begun(case)
    outcome = pretraining.gradients(model, layer, case, parameters)
    outcome.results |= {"scaling": layer.scaling, "nnz": layer.v.numel()}
    return outcome


@replay("sltrain", "train", results=RESULTS)
def train(case: Case) -> Outcome:
    """The outputs of all steps and what they end at."""
    method, model, layer, parameters = _begun(case)
    outcome = pretraining.trained(method, model, layer, case, parameters)
    outcome.results["nnz"] = layer.v.numel()
    return outcome


@replay("sltrain", "memory")
def memory(case: Case) -> Outcome:
    """Numbers and bytes of whole models by each method."""
    given = case.hyperparameters
    sizes = Sizes(given["d"], given["f"], given["layers"], given["vocab"], given["rank"], given["sp_ratio"])
    counts = [estimate(method, sizes) for method in given["order"]]
    params = [sizes.base + sizes.lin, sizes.base, sizes.lin, sizes.lr, sizes.nnz]
    tensors = {
        "params": params,
        "weights_bytes": [count.weights for count in counts],
        "optim_bytes": [count.optimizer for count in counts],
        "grad_bytes": [count.gradients for count in counts],
    }
    return Outcome({name: torch.tensor(numbers, dtype=torch.int64) for name, numbers in tensors.items()})


def _begun(case: Case) -> tuple[SLTrain, nn.Module, SparseLowRankLinear, dict[str, nn.Parameter]]:
    section = {key: case.hyperparameters[key] for key in ("rank", "sp_ratio", "lora_alpha")}
    method = SLTrain(from_mapping(SLTrain.Hyperparameters, {**section, "target_modules": [TARGET]}, "method"))
    model, layer = pretraining.prepared(method, case)
    assert isinstance(layer, SparseLowRankLinear)
    inject(layer.support, case["idx"].to(layer.support.dtype))
    return method, model, layer, pretraining.start(layer, case, {"v": layer.v})
