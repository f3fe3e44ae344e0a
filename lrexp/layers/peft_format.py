"""LoRA layers in PEFT's format: the change of the original base's weights, as factors, ranks and alphas.

Tried with peft 0.21, which is not needed here. A start that was taken from the base (PiSSA, arXiv 2404.02948, section
on the conversion to LoRA) doubles the rank; a fused layer's blocks become one block-diagonal pair of factors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import AdaptedLayer
from lrexp.layers.dora import DORA, DoRALayer, DoRALinear
from lrexp.layers.lora_conv import LoRAConv2d
from lrexp.layers.lora_embedding import LoRAEmbedding
from lrexp.layers.lora_layer import LoRALayer, LoRASettings, difference_to_original
from lrexp.layers.lora_linear import LoRAFused, LoRALinear
from lrexp.layers.salt import SALTConv2d, SALTLayer
from lrexp.spec.errors import InputError

PREFIX = "base_model.model."


@dataclass(frozen=True)
class PlainLoRA:
    """One layer as PEFT holds it: float32 (or better) factors on the original base, their rank and alpha."""

    kind: type[LoRALayer]
    A: Tensor
    B: Tensor
    r: int
    lora_alpha: float
    use_rslora: bool
    lora_dropout: float
    magnitude: Tensor | None = None  # of DoRA, for each output of the layer

    def layer(self, base: nn.Module) -> LoRALayer:
        """The layer that PEFT makes of it, around the original base."""
        made = self.kind(base, LoRASettings(self.r, self.lora_alpha, self.use_rslora, dtype=self.A.dtype))  # type: ignore[call-arg]
        with torch.no_grad():
            made.lora_A.copy_(self.A)
            made.lora_B.copy_(self.B)
            if isinstance(made, DoRALayer):
                assert self.magnitude is not None
                made.lora_magnitude.copy_(self.magnitude)
        return made


def plain_lora(name: str, layer: AdaptedLayer) -> PlainLoRA:
    """What a trained layer changes in the original base. Raises InputError for what PEFT's LoRA cannot hold."""
    if isinstance(layer, SALTLayer) and layer.relu == "none":
        return _plain_salt(layer)
    if type(layer) not in (*DORA, *DORA.values()):
        raise InputError(f"{name} is a {type(layer).__name__}, for which PEFT's LoRA has no form")
    assert isinstance(layer, LoRALayer)
    A, B, r, alpha = difference_to_original(layer)
    kind: type[LoRALayer] = type(layer)
    magnitude = layer.magnitude_of_outputs() if isinstance(layer, DoRALayer) else None
    if isinstance(layer, LoRAFused):
        e = layer.blocks
        B, kind = _block_diagonal(B.view(e, -1, r), layer.slices), DoRALinear if magnitude is not None else LoRALinear
        r, alpha = e * r, alpha * (math.sqrt(e) if layer.use_rslora else e)  # the scale stays what it is
    wide = torch.promote_types(A.dtype, torch.float32)
    A, B = (factor.to(wide).contiguous() for factor in (A, B))
    magnitude = None if magnitude is None else magnitude.to(wide)
    return PlainLoRA(kind, A, B, r, alpha, layer.use_rslora, layer.lora_dropout, magnitude)


def _plain_salt(layer: SALTLayer) -> PlainLoRA:
    """SALT without a ReLU is a LoRA of rank p + d, at scale 1."""
    A, E, B = (t.detach() for t in layer.folded(torch.promote_types(layer.X.dtype, torch.float32)))
    kind: type[LoRALayer] = LoRALinear
    B = (B * E).contiguous()
    if isinstance(layer, SALTConv2d):
        kind, A, B = LoRAConv2d, A.view(-1, *layer.weight.shape[1:]), B[..., None, None]
    return PlainLoRA(kind, A.contiguous(), B, len(E), float(len(E)), False, 0.0)


def _block_diagonal(blocks: Tensor, slices: tuple[bool, ...]) -> Tensor:
    """(e, width, r) to (slices * width, e r): each enabled slice sees its own rows of A, the others none."""
    e, width, r = blocks.shape
    full = blocks.new_zeros(len(slices), width, e, r)
    for j, (slice_index, block) in enumerate(zip([i for i, on in enumerate(slices) if on], blocks, strict=True)):
        full[slice_index, :, j] = block
    return full.reshape(-1, e * r)


def peft_tensors(layers: Mapping[str, PlainLoRA], head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What adapter_model.safetensors holds: the factors of all layers, and the head's tensors by their own names."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        form = "lora_embedding_{}" if issubclass(layer.kind, LoRAEmbedding) else "lora_{}.weight"
        found[f"{PREFIX}{name}.{form.format('A')}"] = layer.A
        found[f"{PREFIX}{name}.{form.format('B')}"] = layer.B
        if layer.magnitude is not None:
            shape = (1, -1, 1, 1) if issubclass(layer.kind, LoRAConv2d) else (-1,)
            found[f"{PREFIX}{name}.lora_magnitude_vector"] = layer.magnitude.view(shape)
    return found | {f"{PREFIX}{name}": tensor for name, tensor in head.items()}


def peft_config(
    layers: Mapping[str, PlainLoRA],
    bases: Sequence[nn.Module],
    head: Sequence[str],
    task_type: str | None,
    base_model: str | None,
) -> dict[str, Any]:
    """What adapter_config.json holds: the commonest rank and alpha, and patterns of full names for the others."""
    entries = list(layers.values())
    r = Counter(entry.r for entry in entries).most_common(1)[0][0]
    alpha = Counter(entry.lora_alpha for entry in entries).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {name: entry.r for name, entry in layers.items() if entry.r != r},
        "alpha_pattern": {name: entry.lora_alpha for name, entry in layers.items() if entry.lora_alpha != alpha},
        "use_rslora": entries[0].use_rslora,
        "use_dora": entries[0].magnitude is not None,
        "lora_dropout": max(entry.lora_dropout for entry in entries),
        "target_modules": list(layers),
        "modules_to_save": list(head) or None,
        "fan_in_fan_out": any(isinstance(base, Conv1D) for base in bases),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
