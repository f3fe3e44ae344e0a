"""Replays of AdaLoRA: training of three layers with the penalty, and which triplets stay."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lrexp.layers.orthonormal_factors import penalty_value
from lrexp.methods.adapters.adalora import AdaLoRA
from lrexp.methods.base import Batch, Context, Decisions, Micro, TaskLoss, Training
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import evaluate, inject, linear, train
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay

LAYERS = ("a", "c", "e")
FACTORS = {"A": "lora_A", "E": "lora_E", "B": "lora_B"}  # by the case's letters


class Watched(AdaLoRA):
    """AdaLoRA that notes losses, budgets and what is left after every step."""

    losses: list[Tensor]
    budgets: list[int]
    diagonals: list[Tensor]

    def loss(self, model: nn.Module, batch: Batch, task_loss: TaskLoss, micro: Micro) -> Tensor:
        """The task's; the whole loss is noted."""
        loss = super().loss(model, batch, task_loss, micro)
        penalty = self.hyperparameters.orth_reg_weight * penalty_value(self.adapters.values())
        self.losses.append(loss.detach() + penalty)
        return loss

    def after_update(self, step: int, training: Training) -> None:
        """As in a run."""
        super().after_update(step, training)
        self.budgets.append(self.budget())
        self.diagonals.append(torch.cat([self.trained()[f"{name}.lora_E"].detach() for name in LAYERS]))


def adalora(case: Case) -> Watched:
    """AdaLoRA with the hyperparameters of the case."""
    given = case.hyperparameters
    same = ("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight")
    section = {key: given[key] for key in same} | {"lora_alpha": given["alpha"], "target_modules": list(LAYERS)}
    method = Watched(from_mapping(AdaLoRA.Hyperparameters, section, "method"))
    method.losses, method.budgets, method.diagonals = [], [], []
    return method


@replay("adalora", "train", results=("rank_pattern",))
def train_three_layers(case: Case) -> Outcome:
    """Training from the given start to the last choice and beyond."""
    method, x, steps = adalora(case), case["x"], case.hyperparameters["total_step"]
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for name in LAYERS:
        modules |= {name: linear(case[f"W_{name}"], None), f"tanh_{name}": nn.Tanh()}
    modules.popitem()
    context = Context(0, steps, torch.device("cpu"), x.dtype)
    model = method.prepare(nn.Sequential(modules), Decisions(), context)
    watched = {
        f"{letter}_{name}": method.trained()[f"{name}.{key}"] for name in LAYERS for letter, key in FACTORS.items()
    }
    for name, parameter in watched.items():
        inject(parameter, case[f"{name}_init"].reshape(parameter.shape))  # the case holds E as (r, 1)
    outcome = train(method, model, case, watched)
    for name in LAYERS:
        outcome.tensors[f"E_{name}_final"] = outcome.tensors[f"E_{name}_final"][:, None]
    outcome.tensors |= {
        "loss": torch.stack(method.losses),
        "budget": torch.tensor(method.budgets),
        "E_steps": torch.stack(method.diagonals),
        "y_final": evaluate(model, x[0]),
    }
    kept = method.state_dict()["kept"]
    outcome.results["rank_pattern"] = {name: part.tolist() for name, part in kept.items()}
    return outcome
