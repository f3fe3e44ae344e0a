"""The LoRA layer for a layer of any kind that can have one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import features
from lrexp.layers.lora_conv import LoRAConv2d, LoRAConv2dReshaped
from lrexp.layers.lora_embedding import LoRAEmbedding
from lrexp.layers.lora_layer import LoRALayer, LoRASettings
from lrexp.layers.lora_linear import LoRAFused, LoRALinear
from lrexp.models.roles import Slices
from lrexp.spec.errors import InputError

ConvLayout = Literal["peft", "loralib"]
Kinds = Mapping[type[LoRALayer], type[LoRALayer]]
PLAIN: Kinds = {}


def lora_layer(
    name: str,
    base: nn.Module,
    settings: LoRASettings,
    slices: Slices = (),
    conv_layout: ConvLayout = "peft",
    kinds: Kinds = PLAIN,
) -> LoRALayer:
    """A LoRA layer around `base`, its factors zero; with `slices`, on these slices of a fused output alone.

    `kinds` has the classes that stand for those of plain LoRA, where a method has its own. Raises InputError, with the
    layer's name, for a rank above what its weight can have and for layers that cannot be merged.
    """
    m, n = features(base)
    if slices and m % len(slices):
        raise InputError(
            f"{name} has {m} outputs, which are no {len(slices)} equal slices: name the layer to adapt it whole"
        )
    if isinstance(base, nn.Conv2d) and conv_layout == "loralib":
        n = base.in_channels
    highest = min(m // max(1, len(slices)), n)
    if settings.r > highest:
        raise InputError(
            f"r is {settings.r} for {name}, whose weight has rank at most {highest}: choose r <= {highest}"
        )
    kind = _kind(name, base, bool(slices), conv_layout)
    kind = kinds.get(kind, kind)
    return kind(base, settings, slices) if slices else kind(base, settings)  # type: ignore[call-arg, arg-type]


def _kind(name: str, base: nn.Module, is_fused: bool, layout: ConvLayout) -> type[LoRALayer]:
    """The class of plain LoRA for a layer. Raises InputError for one that cannot have a LoRA."""
    if isinstance(base, nn.Embedding):
        if type(base).forward is not nn.Embedding.forward:  # one that scales its output would be merged wrongly
            raise InputError(
                f"{name} is a {type(base).__name__}, which changes what it looks up: LoRA cannot be merged into it"
            )
        return LoRAEmbedding
    if isinstance(base, nn.Conv2d):
        return _conv_kind(name, base, layout)
    if not isinstance(base, nn.Linear | Conv1D):
        raise InputError(f"{name} is a {type(base).__name__}: LoRA knows Linear, Conv1D, Conv2d and Embedding")
    return LoRAFused if is_fused else LoRALinear


def _conv_kind(name: str, base: nn.Conv2d, layout: ConvLayout) -> type[LoRALayer]:
    if base.groups != 1:
        raise InputError(
            f"{name} is a convolution in {base.groups} groups, on which LoRA cannot be merged: leave it out"
        )
    if layout == "peft":
        return LoRAConv2d
    if base.kernel_size[0] != base.kernel_size[1]:
        raise InputError(
            f"{name} has a kernel of {base.kernel_size}: conv_layout loralib needs a square one, take peft"
        )
    return LoRAConv2dReshaped
