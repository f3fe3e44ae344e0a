"""Drives a pretraining method on a model of one layer: what the replays of factorised weights share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lrexp.layers.factorised import FactorisedLinear
from lrexp.methods.base import Context, Decisions, Method
from lrexp.verify.adapters import TARGET, inject, linear, one_layer, train
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome

WORDS = {"xs": "x", "gs": "g"}  # the cases' names for the inputs and cotangents of training, and `train`'s


def prepared(method: Method, case: Case, W0: Tensor | None = None) -> tuple[nn.Module, FactorisedLinear]:
    """A model of one layer as the method prepares it, from the dense start W0 (by default zero) and the case's bias."""
    shape = (case.hyperparameters["out_features"], case.hyperparameters["in_features"])
    W0 = case["A0"].new_zeros(shape) if W0 is None else W0
    context = Context(seed=0, total_steps=1, device=torch.device("cpu"), dtype=W0.dtype)
    model = method.prepare(one_layer(linear(W0, case.get("bias0"))), Decisions(), context)
    layer = model.get_submodule(TARGET)
    assert isinstance(layer, FactorisedLinear)
    return model, layer


def start(layer: FactorisedLinear, case: Case, more: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Sets all parameters to the case's start and `more` by name; returns the parameters by their names in the case."""
    parameters = {"A": layer.A, "B": layer.B} | {n: p for n, p in more.items() if isinstance(p, nn.Parameter)}
    if layer.bias is not None:
        parameters["bias"] = layer.bias
    for name, parameter in parameters.items():
        inject(parameter, case[f"{name}0"])
    return parameters


def gradients(model: nn.Module, layer: FactorisedLinear, case: Case, parameters: Mapping[str, Tensor]) -> Outcome:
    """One forward and backward pass: y, W, and d<name> for x and all parameters."""
    x = case["x"].requires_grad_()
    y = model(x)
    names = {"x": x, **parameters}
    found = torch.autograd.grad(y, list(names.values()), case["g"])
    tensors = {f"d{name}": gradient for name, gradient in zip(names, found, strict=True)}
    return Outcome({"y": y.detach(), "W": layer.dense_weight(x.dtype), **tensors})


def trained(
    method: Method, model: nn.Module, layer: FactorisedLinear, case: Case, parameters: dict[str, nn.Parameter]
) -> Outcome:
    """Training on xs and gs: ys, the final parameters <name>_k, and the weight of the plain layer it ends as, W_k."""
    roles = {WORDS.get(name, name): role for name, role in case.roles.items()}
    stored = {WORDS.get(name, name): tensor for name, tensor in case.stored.items()}
    outcome = train(method, model, replace(case, roles=roles, stored=stored), parameters)
    tensors = {"ys": outcome.tensors["y"]} | {f"{name}_k": outcome.tensors[f"{name}_final"] for name in parameters}
    (plain,) = method.finalize(model).children()
    return Outcome(tensors | {"W_k": plain.weight.detach()}, {"scaling": layer.scaling})  # type: ignore[dict-item]
