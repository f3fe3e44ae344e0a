"""Replays of SORSA: the start from the weights' triplets, then training of all layers with clipping and the penalty."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.layers.lora_layer import LoRALayer
from lrexp.methods.adapters.sorsa import SORSA
from lrexp.methods.base import Context, Decisions, Training
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import evaluate, inject, linear, train
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay

FACTORS = {"A": "lora_A", "S": "lora_E", "B": "lora_B"}  # by the case's letters


class Watched(SORSA):
    """SORSA at the rates of the case, which notes gradients and penalties on the way."""

    def __init__(self, hyperparameters: Any, factors: list[float] | None) -> None:
        super().__init__(hyperparameters)
        self.factors = factors
        self.norms: list[Tensor] = []
        self.penalties: list[Tensor] = []
        self.first: dict[str, Tensor] = {}  # gradients of the first step

    def lr_multiplier(self, step: int, group: int) -> float:
        """The case's."""
        return 1.0 if self.factors is None else self.factors[step]

    def gradients_ready(self, step: int, training: Training) -> None:
        """Notes the norm of all gradients."""
        gradients = [p.grad for p in watched(self).values() if p.grad is not None]
        self.norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))

    def before_update(self, step: int, training: Training) -> None:
        """Notes the gradients before and after the penalty, and the penalty."""
        self.note("task", step)
        self.penalties.append(torch.tensor(self.metrics()["orthonormality_error"]))
        super().before_update(step, training)
        self.note("total", step)

    def note(self, what: str, step: int) -> None:
        """Notes the gradients of the first step."""
        for name, factor in watched(self).items() if step == 0 else ():
            assert factor.grad is not None
            self.first[f"grad1_{what}_{name}"] = factor.grad.clone()


def sorsa(case: Case) -> Watched:
    """SORSA with the hyperparameters of the case."""
    given = case.hyperparameters
    section = {"r": given["r"], "lora_alpha": given["alpha"], "gamma": given["gamma"], "target_modules": "all-linear"}
    return Watched(from_mapping(SORSA.Hyperparameters, section, "method"), given["lr_factors"])


def watched(method: SORSA) -> dict[str, nn.Parameter]:
    """What is trained, by the case's names: a letter and the layer's number."""
    return {
        f"{letter}{index}": getattr(layer, name)
        for index, layer in enumerate(method.adapters.values())
        for letter, name in FACTORS.items()
    }


@replay("sorsa", "init_train")
def init_train(case: Case) -> Outcome:
    """The start is compared; training goes on from the stored one."""
    method, model = sorsa(case), network(case)
    x = case["x"]
    model = method.prepare(model, Decisions(), Context(0, len(x), torch.device("cpu"), x.dtype))
    found = {
        name: tensor for i, layer in enumerate(method.adapters.values()) for name, tensor in start(layer, i).items()
    }
    for i, layer in enumerate(method.adapters.values()):
        assert layer.lora_E is not None
        inject(layer.weight, case[f"W_res{i}"])
        for factor, name in ((layer.lora_A, "A_start"), (layer.lora_E, "S_init"), (layer.lora_B, "B_start")):
            inject(factor, case[f"{name}{i}"])
    rated = replace(case, hyperparameters={**case.hyperparameters, "lr": case.hyperparameters["lr_max"]})
    outcome = train(method, model, rated, watched(method))
    finals = {f"{name[0]}_final{name[1:]}": factor.detach().clone() for name, factor in watched(method).items()}
    outcome.tensors |= found | method.first | finals
    outcome.tensors |= {"grad_norm": torch.stack(method.norms), "ortho": torch.stack(method.penalties)}
    outcome.tensors["y_final"] = evaluate(model, x[0])
    merged = method.finalize(model)
    outcome.tensors["y_merged"] = evaluate(merged, x[0])
    plain = [module for module in merged if isinstance(module, nn.Linear)]  # type: ignore[attr-defined]
    return Outcome(outcome.tensors | {f"W_merged{i}": layer.weight.detach() for i, layer in enumerate(plain)})


def network(case: Case) -> nn.Sequential:
    """The case's linear layers with tanh between them."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(len(case.hyperparameters["shapes"])):
        modules |= {f"layer{i}": linear(case[f"W{i}"], case.get(f"b{i}")), f"tanh{i}": nn.Tanh()}
    modules.popitem()
    return nn.Sequential(modules)


def start(layer: LoRALayer, index: int) -> dict[str, Tensor]:
    """What the layer starts from, by the case's names."""
    assert layer.lora_E is not None
    tensors = {
        "A_init": layer.lora_A, "S_init": layer.lora_E, "B_init": layer.lora_B, "W_res": layer.weight,
        "BSA_init": layer.delta_weight() / layer.scaling,
    }  # fmt: skip
    return {f"{name}{index}": tensor.detach().clone() for name, tensor in tensors.items()}
