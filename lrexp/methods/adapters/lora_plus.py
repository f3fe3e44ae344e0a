"""LoRA+: LoRA whose B learns at a larger rate than its A.

Hayou, Ghosh, Yu 2024, arXiv 2402.12354.

    y = x W^T + b + s (x A^T) B^T      A at the rate lr, B at lambda lr, lambda = lr_multipliers.out

The model is LoRA's; schedules and clipping act on all alike. In the paper lambda is 2^4 with AdamW, for B = 0 at the
start. Any adapter takes lr_multipliers (`method=pissa method.lr_multipliers.out=4`), but where B does not start at zero
the argument for it is missing: there it is an experiment. PEFT's own rate of 1e-6 for the factors of embeddings is not
taken over: with it they hardly move.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lrexp.methods.adapters.lora import LoRA, LoRAHyperparameters


@dataclass(frozen=True)
class LoRAPlusHyperparameters(LoRAHyperparameters):
    """LoRA's settings, with another default."""

    lr_multipliers: dict[str, float] = field(default_factory=lambda: {"out": 16.0})  # paper: 16


class LoRAPlus(LoRA):
    """LoRA with two rates."""

    Hyperparameters = LoRAPlusHyperparameters
