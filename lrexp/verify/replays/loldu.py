"""Replays of LoLDU: the factorisation, and training of the pivots between the stored factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.layers.lora_embedding import LoRAEmbedding
from lrexp.layers.lora_layer import LoRALayer
from lrexp.linalg.ldu import ldu
from lrexp.linalg.random import generator
from lrexp.methods.adapters.loldu import LoLDU
from lrexp.methods.base import Training
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import TARGET, base_optimizer, embedding, evaluate, inject, linear, prepare, train
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay

PRESERVING = ("lu", "uniform", "normal", "constant")  # the code's starts that keep the function


class Decayed(LoLDU):
    """LoLDU whose z, not its change, is shrunk by the optimizer's weight decay, as the code's is."""

    start_z: Tensor  # z where its change is 0
    change: nn.Parameter
    shrinks_by: float

    def before_update(self, step: int, training: Training) -> None:
        """What AdamW does to a parameter before its move."""
        with torch.no_grad():
            self.change.sub_(self.shrinks_by * (self.start_z + self.change))


@replay("loldu", "init_train_linear", results=("scaling",))
def init_train_linear(case: Case) -> Outcome:
    """A Linear, with or without bias."""
    return _init_train(case, linear(case["W"], case.get("b")))


@replay("loldu", "init_train_embedding", results=("scaling",))
def init_train_embedding(case: Case) -> Outcome:
    """An Embedding."""
    return _init_train(case, embedding(case["W"], None))


def _method(case: Case) -> Decayed:
    given = case.hyperparameters
    section = {
        "r": given["r"],
        "lora_alpha": given["alpha"],
        "init_method": given["init_method"],
        "preserve": given["init_method"] in PRESERVING,
        "normalise": False,
        "target_modules": [TARGET],
    }
    return Decayed(from_mapping(LoLDU.Hyperparameters, section, "method"))


def _init_train(case: Case, base: nn.Module) -> Outcome:
    method = _method(case)
    model, layer = prepare(method, base, case)
    assert layer.lora_E is not None
    found = _factorised(case, method, layer)
    z = case["z_init"]
    method.start_z = z if method.hyperparameters.preserve else case["D"][: layer.r]
    method.change = layer.lora_E
    FL = case["P"] @ case["L_r"]
    found["W_res"] = case["W"] - layer.scaling * (FL * method.start_z) @ case["U_r"]
    A, B = (FL.mT, case["U_r"].mT) if isinstance(layer, LoRAEmbedding) else (case["U_r"], FL)
    inject(layer.lora_A, A)
    inject(layer.lora_B, B)
    inject(layer.lora_E, z - method.start_z)
    found["W_eff_init"] = layer.merged().weight  # type: ignore[assignment]
    optimizer, rate = base_optimizer(case.hyperparameters)
    method.shrinks_by = rate * optimizer["weight_decay"]
    outcome = train(method, model, case, {"z": layer.lora_E})
    outcome.results["scaling"] = layer.scaling
    outcome.tensors["z_final"] = method.start_z + outcome.tensors["z_final"]
    x = case["x"][0]
    found["y_final"] = evaluate(model, x)
    merged = method.finalize(model)
    (plain,) = merged.children()
    outcome.tensors |= found
    outcome.tensors |= {"W_merged": plain.weight, "y_merged": evaluate(merged, x)}  # type: ignore[dict-item]
    return outcome


def _factorised(case: Case, method: LoLDU, layer: LoRALayer) -> dict[str, Tensor]:
    """P, L_r, U_r and D as the weight's factorisation has them, with the layer's factors in place of their product."""
    r, kind = layer.r, case.hyperparameters["init_method"]
    split = ldu(case["W"])
    A, B = layer.lora_A, layer.lora_B
    product, U = (A.mT, B.mT) if isinstance(layer, LoRAEmbedding) else (B, A)
    found = {"P": F.one_hot(split.order).mT.to(split.L), "D": split.D, "L_r": product[split.order], "U_r": U}
    return found | {"z_init": method.start(split.D[:r], kind, generator(0, TARGET))}
