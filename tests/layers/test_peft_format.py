"""Every kind of LoRA layer computes in PEFT what it computes here, on the original base."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import AdaptedLayer
from lrexp.layers.dora import DORA, DoRALayer
from lrexp.layers.lora import lora_layer
from lrexp.layers.lora_layer import LoRASettings
from lrexp.layers.peft_format import peft_config, peft_tensors, plain_lora
from lrexp.linalg.random import ambient, generator
from lrexp.spec.errors import InputError

KINDS = {
    "linear": (lambda: nn.Linear(12, 18), ()),
    "no-bias": (lambda: nn.Linear(12, 18, bias=False), ()),
    "conv1d": (lambda: Conv1D(18, 12), ()),
    "fused": (lambda: nn.Linear(12, 18), (True, False, True)),
    "fused-conv1d": (lambda: Conv1D(18, 12), (False, True, True)),
    "embedding": (lambda: nn.Embedding(20, 12, padding_idx=0), ()),
    "conv2d": (lambda: nn.Conv2d(4, 12, 3, stride=2, padding=1), ()),
}


class One(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def a_batch(kind: str) -> Tensor:
    if kind == "embedding":
        return torch.randint(0, 20, (3, 5), generator=generator(0, "ids"))
    shape = (2, 4, 7, 7) if kind == "conv2d" else (2, 5, 12)
    return torch.randn(shape, generator=generator(0, "x"))


def in_peft(base: nn.Module, layer: AdaptedLayer, place: Path) -> nn.Module:
    from peft import PeftModel

    plain = {"layer": plain_lora("layer", layer)}
    config = peft_config(plain, [base], (), None, None)
    (place / "adapter_config.json").write_text(json.dumps(config))
    tensors = peft_tensors(plain, {})
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, place / "adapter_model.safetensors")
    return PeftModel.from_pretrained(One(base), place).eval()


@pytest.mark.parametrize("taken", [False, True], ids=["lora", "pissa"])
@pytest.mark.parametrize("use_rslora", [False, True], ids=["alpha/r", "rslora"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_outputs_are_equal(kind: str, use_rslora: bool, taken: bool, tmp_path: Path) -> None:
    make, slices = KINDS[kind]
    with ambient(1):
        original = make()
        layer = lora_layer("layer", copy.deepcopy(original), LoRASettings(2, 5.0, use_rslora), slices)
        for factor in (layer.lora_A, layer.lora_B):
            nn.init.normal_(factor)
        if taken:
            layer.take_from_base()
            for factor in (layer.lora_A, layer.lora_B):
                nn.init.normal_(factor)
    x = a_batch(kind)
    loaded, plain = in_peft(copy.deepcopy(original), layer, tmp_path), plain_lora("layer", layer)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain.layer(original)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_magnitudes_are_held(kind: str, tmp_path: Path) -> None:
    make, slices = KINDS[kind]
    with ambient(1):
        original = make()
        layer = lora_layer("layer", copy.deepcopy(original), LoRASettings(2, 5.0), slices, kinds=DORA)
        assert isinstance(layer, DoRALayer)
        for factor in (layer.lora_A, layer.lora_B):
            nn.init.normal_(factor)
        nn.init.uniform_(layer.lora_magnitude, 0.5, 2.0)
    x = a_batch(kind)
    loaded, plain = in_peft(copy.deepcopy(original), layer, tmp_path), plain_lora("layer", layer)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain.layer(original)(x), expected, rtol=1e-5, atol=1e-5)


def test_bf16_factors_are_written_in_float32() -> None:
    layer = lora_layer("layer", nn.Linear(8, 8), LoRASettings(2, 4.0, dtype=torch.bfloat16))
    assert plain_lora("layer", layer).A.dtype == torch.float32


def test_what_peft_has_no_form_for_is_refused() -> None:
    reshaped = lora_layer("mix.conv", nn.Conv2d(4, 8, 3), LoRASettings(2, 4.0), conv_layout="loralib")
    with pytest.raises(InputError, match=r"mix\.conv is a LoRAConv2dReshaped, for which PEFT's LoRA has no form"):
        plain_lora("mix.conv", reshaped)
