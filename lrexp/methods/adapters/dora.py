"""DoRA: LoRA on the direction of each weight, with a trained magnitude for each of its outputs.

Liu et al. 2024, arXiv 2402.09353.

    V = W + s B A      c_i = ||V_i||      y = (mag / c) (x V^T) + b      W (m, n), A (r, n), B (m, r), mag (m,)

A, B and mag are trained, W and b frozen; r (m + n) + m parameters a layer, merged at the end as diag(mag / c) V. mag
starts at the norms of W's rows, one for each output; the paper writes columns of the transposed weight. c is a constant
for the gradient (section 4.3) and is computed once a step, where PEFT computes it in every forward through a dense B A.
With dropout the base's output keeps the input as it is, both corrections see the dropped one, as in PEFT. mag is not
decayed; of lr_multipliers it takes `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lrexp.layers.dora import DORA, DoRALayer
from lrexp.layers.lora_layer import LoRALayer
from lrexp.methods.adapters.lora import DrawnHyperparameters, LoRA
from lrexp.methods.base import Context, Decisions


@dataclass(frozen=True)
class DoRAHyperparameters(DrawnHyperparameters):
    """LoRA's settings, but for the layout of Conv2d, which is PEFT's."""


class DoRA(LoRA):
    """LoRA with magnitudes."""

    Hyperparameters = DoRAHyperparameters
    kinds = DORA

    def initialise(self, layer: LoRALayer, name: str, decisions: Decisions, context: Context) -> None:
        """LoRA's start, and magnitudes from the weight."""
        super().initialise(layer, name, decisions, context)
        assert isinstance(layer, DoRALayer)
        layer.begin()

    def before_step(self, step: int) -> None:
        """Computes the norms of all layers, which hold till the factors move."""
        for layer in self.adapters.values():
            assert isinstance(layer, DoRALayer)
            layer.hold()
