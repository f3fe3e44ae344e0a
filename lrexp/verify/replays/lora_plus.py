"""Replay of LoRA+: one AdamW with two learning rates."""

from __future__ import annotations

from lrexp.methods.adapters.lora_plus import LoRAPlus
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import inject, linear, lora_section, prepare, train_lora
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


@replay("lora_plus", "train", results=("scaling",))
def train(case: Case) -> Outcome:
    """A Linear; A and B after every step."""
    section = lora_section(case, lr_multipliers={"out": case.hyperparameters["loraplus_lr_ratio"]})
    method = LoRAPlus(from_mapping(LoRAPlus.Hyperparameters, section, "method"))
    model, layer = prepare(method, linear(case["W"], None), case)
    inject(layer.lora_A, case["A_init"])
    inject(layer.lora_B, case["B_init"])
    return train_lora(method, model, layer, case)
