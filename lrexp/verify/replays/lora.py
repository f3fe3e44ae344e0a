"""Replays of LoRA: training of every kind of layer it knows, and what follows from a given start."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrexp.layers.adapted import adapt
from lrexp.layers.lora import lora_layer
from lrexp.layers.lora_layer import LoRALayer, LoRASettings
from lrexp.methods.adapters.lora import LoRA
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import (
    TARGET,
    context,
    conv2d,
    embedding,
    inject,
    linear,
    lora_section,
    one_layer,
    prepare,
    train_lora,
)
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay

STARTS = {
    "True": "kaiming",
    "gaussian": "gaussian",
    "orthogonal": "orthogonal",
    "False": "default_linear",
}  # PEFT's names
FUSED = {2: ("gate_up_proj", ("gate", "up")), 3: ("qkv", ("q", "k", "v"))}  # layers of so many slices, and their roles


def lora(case: Case, **settings: Any) -> LoRA:
    """LoRA with the hyperparameters of the case; dropout acts where the case says what it gives."""
    given = case.hyperparameters
    dropout = 0.0 if case.get("x_dropped") is None else given.get("dropout") or 0.5
    section = lora_section(case, **{"lora_dropout": dropout} | settings)
    return LoRA(from_mapping(LoRA.Hyperparameters, section, "method"))


def _trained(case: Case, base: nn.Module, **settings: Any) -> Outcome:
    method = lora(case, **settings)
    model, layer = prepare(method, base, case)
    return _train(method, model, layer, case)


def _train(method: LoRA, model: nn.Module, layer: LoRALayer, case: Case) -> Outcome:
    inject(layer.lora_A, case["A_init"])
    inject(layer.lora_B, case["B_init"])
    return train_lora(method, model, layer, case)


@replay("lora", "train_linear", results=("scaling",))
def train_linear(case: Case) -> Outcome:
    """A Linear, plain or rank-stabilised, with or without bias and given dropout."""
    return _trained(case, linear(case["W"], case.get("b")))


@replay("lora", "train_embedding", results=("scaling",))
def train_embedding(case: Case) -> Outcome:
    """An Embedding, with or without padding_idx."""
    return _trained(case, embedding(case["W"], case.hyperparameters.get("padding_idx")))


@replay("lora", "train_conv2d", results=("scaling",))
def train_conv2d(case: Case) -> Outcome:
    """A Conv2d in PEFT's layout."""
    return _trained(case, conv2d(case["W"], case.get("b"), case.hyperparameters))


@replay("lora", "train_conv2d_loralib", results=("scaling",))
def train_conv2d_loralib(case: Case) -> Outcome:
    """A Conv2d in loralib's layout."""
    return _trained(case, conv2d(case["W"], case.get("b"), case.hyperparameters), conv_layout="loralib")


@replay("lora", "train_merged_linear", results=("scaling",))
def train_merged_linear(case: Case) -> Outcome:
    """A fused Linear with factors for each enabled slice of its output."""
    base, slices = linear(case["W"], case.get("b")), tuple(case.hyperparameters["enable"])
    if len(slices) in FUSED:
        name, roles = FUSED[len(slices)]
        method = lora(case, target_modules=[role for role, enabled in zip(roles, slices, strict=True) if enabled])
        return _train(method, *prepare(method, base, case, name), case)
    method = lora(case)  # no role names slices of such a number: the layer is put in by hand
    values = method.hyperparameters
    settings = LoRASettings(
        values.r, values.lora_alpha, values.use_rslora, values.lora_dropout, context(case).dtype, context(case).device
    )
    layer = lora_layer(TARGET, base, settings, slices)
    return _train(method, adapt(one_layer(base), {TARGET: layer}, ()), layer, case)


@replay("lora", "init_statistics")
def init_statistics(case: Case) -> Outcome:
    """What follows from one draw of the factors, which the case gives."""
    given = case.hyperparameters
    A, B = case["A_init"], case["B_init"]
    method = LoRA(
        from_mapping(
            LoRA.Hyperparameters,
            {
                "r": given["r"],
                "lora_alpha": given["r"],  # scaling 1: the change of the weight is B A
                "init_lora_weights": STARTS.get(str(given.get("init")), "kaiming"),
                "target_modules": [TARGET],
            },
            "method",
        )
    )
    _, layer = prepare(method, linear(A.new_zeros(B.shape[0], A.shape[1]), None), case)
    inject(layer.lora_A, A)
    inject(layer.lora_B, B)
    A = layer.lora_A.detach()
    statistics = {"A_gram": A @ A.T, "A_mean": A.mean(), "A_std": A.std(), "A_absmax": A.abs().max()}
    return Outcome(statistics | {"BA": layer.delta_weight(A.dtype) / layer.scaling})
