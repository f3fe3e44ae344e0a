"""A product of two factors in place of a linear layer, and the plain layer that it ends as."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.factorised import FactorisedLinear, factorised_layers, make_plain
from lrexp.linalg.random import generator


def filled(base: nn.Module, r: int, scaling: float) -> FactorisedLinear:
    layer = FactorisedLinear(base, r, scaling)
    draw = generator(0, "factors")
    layer.set_factors(torch.randn(layer.A.shape, generator=draw), torch.randn(layer.B.shape, generator=draw))
    return layer


@pytest.mark.parametrize("base", [nn.Linear(6, 4), nn.Linear(6, 4, bias=False), Conv1D(4, 6)])
def test_plain_layer_gives_the_same_outputs(base: nn.Module) -> None:
    model = nn.Sequential(filled(base, 3, 0.5))
    x = torch.randn(2, 5, 6, generator=generator(0, "x"))
    before = model(x)
    layer = factorised_layers(model)["0"]
    torch.testing.assert_close(before, x @ layer.dense_weight().T + (0 if layer.bias is None else layer.bias))
    plain = make_plain(model)
    assert type(plain[0]) is type(base)  # type: ignore[index]
    torch.testing.assert_close(plain(x), before)
    assert not factorised_layers(plain)
