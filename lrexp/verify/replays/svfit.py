"""Replays of SVFit: the decomposition, and training of the singular values between the stored vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.svd import exact_svd
from lrexp.methods.adapters.svfit import SVFit
from lrexp.methods.base import Training
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import TARGET, inject, linear, prepare, train
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


class Watched(SVFit):
    """SVFit that notes the trained changes after every step."""

    layer: LoRALayer
    steps: list[Tensor]

    def after_update(self, step: int, training: Training) -> None:
        """Notes them."""
        assert self.layer.lora_E is not None
        self.steps.append(self.layer.lora_E.detach().clone())


@replay("svfit", "init_train")
def init_train(case: Case) -> Outcome:
    """The decomposition is compared; training goes on from the stored one."""
    r = case.hyperparameters["r"]
    method = Watched(from_mapping(SVFit.Hyperparameters, {"r": r, "target_modules": [TARGET]}, "method"))
    W = case["W"]
    model, layer = prepare(method, linear(W, case.get("b")), case)
    method.layer, method.steps = layer, []
    S = exact_svd(W).S
    found = {"U": layer.lora_B.clone(), "Vt": layer.lora_A.clone(), "S_all": S, "sigma_init": S[:r]}
    found |= {"W_e": W - (found["U"] * S[:r]) @ found["Vt"], "energy": S[:r].square().sum() / S.square().sum()}
    inject(layer.lora_B, case["U"])
    inject(layer.lora_A, case["Vt"])
    assert layer.lora_E is not None
    outcome = train(method, model, case, {"sigma": layer.lora_E})
    gradients = [outcome.tensors[f"grad{i + 1}_sigma"] for i in range(len(case["x"]))]
    sigma_steps = case["sigma_init"] + torch.stack(method.steps)
    (plain,) = method.finalize(model).children()
    outcome.tensors |= found | {"grad_sigma": torch.stack(gradients), "sigma_steps": sigma_steps}
    outcome.tensors["W_merged"] = plain.weight  # type: ignore[assignment]
    return outcome
