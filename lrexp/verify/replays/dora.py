"""Replays of DoRA: training of Linear and Conv2d from a given start."""

from __future__ import annotations

from torch import nn

from lrexp.layers.dora import DoRALayer
from lrexp.methods.adapters.dora import DoRA
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import conv2d, inject, linear, lora_section, prepare, train_lora
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


class Decayed(DoRA):
    """DoRA whose magnitudes decay too, as with one group for all parameters."""

    def decayed(self, model: nn.Module) -> set[str]:
        """All parameters."""
        return {name for name, _ in model.named_parameters()}


@replay("dora", "train_linear", results=("scaling",))
def train_linear(case: Case) -> Outcome:
    """A Linear, plain or rank-stabilised."""
    return _trained(case, linear(case["W"], case.get("b")))


@replay("dora", "train_conv2d", results=("scaling",))
def train_conv2d(case: Case) -> Outcome:
    """A Conv2d in PEFT's layout."""
    given = case.hyperparameters["conv"]
    return _trained(case, conv2d(case["W"], case.get("b"), {"stride": given["stride"], "padding": given["pad"]}))


def _trained(case: Case, base: nn.Module) -> Outcome:
    method = Decayed(from_mapping(DoRA.Hyperparameters, lora_section(case), "method"))
    model, layer = prepare(method, base, case)
    assert isinstance(layer, DoRALayer)
    start = layer.norms().to(layer.lora_magnitude.dtype)
    inject(layer.lora_A, case["A_init"])
    inject(layer.lora_B, case["B_init"])
    outcome = train_lora(method, model, layer, case, mag=layer.lora_magnitude)
    outcome.tensors["mag_init"] = start
    for name in ("mag_init", "mag_final", *(f"grad{step}_mag" for step in range(1, len(case["x"]) + 1))):
        if case["W"].ndim == 4:
            outcome.tensors[name] = outcome.tensors[name].view(1, -1, 1, 1)  # as PEFT has them
    return outcome
