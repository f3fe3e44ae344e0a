"""A model's change as LoRA layers of a rank, norms whole; what has no place is named."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.lora_conv import LoRAConv2d
from lrexp.layers.truncation import truncate
from lrexp.linalg.random import ambient, generator
from lrexp.spec.errors import InputError


class Net(nn.Module):
    """A layer of each kind, and a parameter of its own if asked for."""

    def __init__(self, own: bool = False) -> None:
        super().__init__()
        self.conv, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.table, self.norm = nn.Embedding(20, 6), nn.BatchNorm1d(6)
        self.up, self.down = Conv1D(12, 6), nn.Linear(12, 6)
        self.head = nn.Linear(6, 2)
        if own:
            self.token = nn.Parameter(torch.zeros(6))

    def change(self, *names: str) -> Net:
        """A copy whose tensors of these modules have moved."""
        moved = copy.deepcopy(self)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                if name.startswith(names):
                    p += torch.randn(p.shape, generator=generator(0, name))
        return moved


@pytest.fixture
def net() -> Net:
    with ambient(0):
        return Net()


def test_every_kind_of_layer(net: Net) -> None:
    moved = net.change("")
    moved.norm.running_mean.add_(1)  # type: ignore[union-attr]
    found = truncate(moved, net, ["head"], 3)
    assert list(found.layers) == ["conv", "table", "up", "down"]
    assert found.modules == ["grouped", "norm"] and found.biases == ["conv", "up", "down"]
    assert found.layers["conv"].kind is LoRAConv2d
    parts, wholes = [], []
    for name, entry in found.layers.items():
        before, after = net.get_submodule(name), moved.get_submodule(name)
        change: Tensor = after.weight - before.weight  # type: ignore[operator, assignment]
        with torch.no_grad():
            left = change - entry.layer(before).delta_weight()
        matrix = change.flatten(1).detach().double()
        best = torch.linalg.svdvals(matrix)[3:].norm()
        assert float(left.norm()) == pytest.approx(float(best), rel=1e-4)
        assert found.lost[name] == pytest.approx(float(best / matrix.norm()), rel=1e-4)
        parts.append(float(best))
        wholes.append(float(matrix.norm()))
    assert found.lost_together == pytest.approx(math.hypot(*parts) / math.hypot(*wholes), rel=1e-4)
    assert found.worst == max(found.lost, key=found.lost.__getitem__)


def test_what_has_not_changed_is_left_out(net: Net) -> None:
    moved = net.change("down.weight", "up.bias")
    found = truncate(moved, net, ["head"], 99)
    assert (list(found.layers), found.modules, found.biases) == (["down"], ["up"], [])
    assert found.layers["down"].r == 6 and found.lost_together < 1e-5


def test_what_has_no_place_is_named(net: Net) -> None:
    with ambient(0):
        own = Net(own=True)
    with pytest.raises(InputError, match=r"^token has changed, for which LoRA has no place"):
        truncate(own.change("token", "down"), own, ["head"], 2)
    with pytest.raises(InputError, match="no matrix but the head's has changed"):
        truncate(net.change("head", "norm"), net, ["head"], 2)
    broken = net.change("down")
    with torch.no_grad():
        broken.down.weight[0, 0] = math.nan
    with pytest.raises(InputError, match=r"^down: the matrix has NaN"):
        truncate(broken, net, ["head"], 2)
    smaller = net.change("down")
    smaller.up = Conv1D(10, 6)
    with pytest.raises(InputError, match="no longer has its base's layers"):
        truncate(smaller, net, ["head"], 2)
