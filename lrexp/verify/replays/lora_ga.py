"""Replays of LoRA-GA: the start from given gradients, training from the stored start; PEFT's port of the start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.running_product import DenseSum
from lrexp.linalg.svd import exact_svd
from lrexp.methods.adapters.lora_ga import LoRAGA
from lrexp.methods.base import Batch, Context, TaskLoss
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import TARGET, context, evaluate, inject, linear, one_layer, train, train_lora
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


class GivenLoRAGA(LoRAGA):
    """LoRA-GA with the case's test matrices and the signs of its start; the gradient is held whole."""

    case: Case
    held: DenseSum

    def sum(self, m: int, n: int, r: int, name: str, context: Context) -> DenseSum:
        """The whole sum, for a look at it."""
        self.held = DenseSum(m, n)
        return self.held

    def omega(self, shape: tuple[int, int], name: str, context: Context) -> Tensor:
        """The case's, where it gives one."""
        given = self.case.get("omega_w" if name.startswith("weight:") else "omega")
        return super().omega(shape, name, context) if given is None else given

    def signed(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of A and columns of B, each with the sign of the stored one."""
        same_A = (A * self.case["A_init"]).sum(1, keepdim=True) < 0
        same_B = (B * self.case["B_init"]).sum(0, keepdim=True) < 0
        return torch.where(same_A, -A, A), torch.where(same_B, -B, B)


def prepared(case: Case, batches: list[Batch], task_loss: TaskLoss, **settings: Any) -> tuple[GivenLoRAGA, nn.Module]:
    """The method with the case's hyperparameters, and the one-layer model that it prepares by these batches."""
    given = case.hyperparameters
    section = {
        "r": given["r"],
        "lora_alpha": given["alpha"],
        "target_modules": [TARGET],
        "calibration_batches": len(batches),
        **{
            key: given[key] for key in ("use_rslora", "direction", "scale", "stable_gamma", "svd_niter") if key in given
        },
    }
    method = GivenLoRAGA(from_mapping(LoRAGA.Hyperparameters, section | settings, "method"))
    method.case = case

    def calibration(name: str, count: int, size: int) -> Iterator[Batch]:
        return iter(batches)

    of = replace(context(case), task_loss=task_loss, calibration=calibration)
    model = one_layer(linear(case["W"], case.get("b")))
    return method, method.prepare(model, method.decide(model, of), of)


def adapter(model: nn.Module) -> LoRALayer:
    """The model's only layer."""
    layer = model.get_submodule(TARGET)
    assert isinstance(layer, LoRALayer)
    return layer


def cotangent_loss(model: nn.Module, batch: Batch) -> Tensor:
    """sum(y * g), whose gradient at the output is g."""
    return (model(batch["x"]) * batch["g"]).sum()


def start(method: GivenLoRAGA, layer: LoRALayer) -> dict[str, Tensor]:
    """The gradient and its triplets, and what was made of them."""
    G, r = method.held.matrix, layer.r
    U, S, Vh = exact_svd(G)
    A, B = (factor.detach().clone() for factor in (layer.lora_A, layer.lora_B))
    found = {"grad_mean": G, "U": U[:, : 2 * r], "S": S, "V": Vh[: 2 * r].mT, "A_init": A, "B_init": B}
    return found | {"A_proj": A.mT @ A, "B_proj": B @ B.mT, "W_res": layer.weight.detach().clone()}


@replay("lora_ga", "init_train", results=("scaling",))
def init_train(case: Case) -> Outcome:
    """The start is compared; one plain step with the gradient, and training, go on from the stored one.

    A gradient is given by one pass over the columns of the identity: its output gradients are the rows of the
    transposed one.
    """
    grads = case["grads"]
    eye = torch.eye(grads.shape[2], dtype=grads.dtype)
    method, model = prepared(case, [{"x": eye, "g": G.mT} for G in grads], cotangent_loss)
    found = start(method, adapter(model))
    for name, tensor in _stored_start(adapter(model)).items():
        inject(tensor, case[name])
    for name, tensor in (("A_init", adapter(model).lora_A0), ("B_init", adapter(model).lora_B0)):
        inject(tensor, case[name])  # type: ignore[arg-type]
    found["dW_first"] = _first_step(method, copy.deepcopy(model), case, eye)
    outcome = train_lora(method, model, adapter(model), case)
    outcome.tensors |= found
    return outcome


def _stored_start(layer: LoRALayer) -> dict[str, Tensor]:
    return {"A_init": layer.lora_A, "B_init": layer.lora_B, "W_res": layer.weight}


def _first_step(method: GivenLoRAGA, model: nn.Module, case: Case, eye: Tensor) -> Tensor:
    """What one plain SGD step by the mean gradient changes in the weight."""
    layer, given = adapter(model), case.hyperparameters
    before = layer.delta_weight(torch.float64).detach()
    sgd = {"name": "SGD", "lr": given["eta_first"]}
    step = replace(
        case,
        hyperparameters={**given, "optimizer": sgd},
        stored={**case.stored, "x": eye[None], "g": method.held.matrix.mT[None]},
    )
    train(method, model, step, {})
    return layer.delta_weight(torch.float64).detach() - before


@replay("lora_ga", "init_peft", results=("scaling",))
def init_peft(case: Case) -> Outcome:
    """PEFT's port of the start, by the mean squared error."""
    loss: Callable[[nn.Module, Batch], Tensor] = lambda model, batch: (model(batch["x"]) - batch["Y"]).square().mean()  # noqa: E731
    batches: list[Batch] = [{"x": x, "Y": Y} for x, Y in zip(case["x"], case["Y"], strict=True)]
    method, model = prepared(case, batches, loss, flavour=case.hyperparameters["flavour"])
    outcome = Outcome(start(method, adapter(model)), {"scaling": adapter(model).scaling})
    outcome.tensors["y_init"] = evaluate(model, case["x"][0])
    return outcome
