"""Layers on one input against the same layers by themselves: values, gradients, and every way to call them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lrexp.layers.adapted import adapted_layers, replace
from lrexp.layers.dora import DORA
from lrexp.layers.lora import PLAIN, Kinds, lora_layer
from lrexp.layers.lora_layer import LoRASettings
from lrexp.layers.lora_linear import LoRALinear
from lrexp.layers.shared_input import share_inputs

WIDTH, R = 32, 1
NARROW, DENSE = (2, 3), (8, 9)  # shapes of inputs for which the one form and the other is chosen
Call = Callable[[nn.Module, Tensor], Tensor]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(WIDTH, 48), nn.Linear(WIDTH, 16), nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)


def pair(kinds: Kinds = PLAIN, diagonal: bool = False) -> tuple[Attention, Attention]:
    """The same adapted model twice: with a shared input, and without."""
    torch.manual_seed(0)
    alone = Attention().double()
    for name in ("q_proj", "k_proj", "v_proj"):
        settings = LoRASettings(R, 2.0, dtype=torch.float64, diagonal=diagonal)
        replace(alone, {name: lora_layer(name, alone.get_submodule(name), settings, kinds=kinds)})
    for parameter in alone.parameters():
        if parameter.requires_grad:
            nn.init.uniform_(parameter, 0.5, 1.5)
    shared = copy.deepcopy(alone)
    share_inputs(adapted_layers(shared))  # type: ignore[arg-type]
    assert all(layer.shared is not None for layer in shared.children())
    return shared, alone


def outcome(model: nn.Module, call: Call, shape: tuple[int, ...]) -> list[Tensor | None]:
    """The output and all gradients, that of the input first."""
    x = torch.linspace(-1, 1, WIDTH * shape[0] * shape[1], dtype=torch.float64).view(*shape, WIDTH).requires_grad_()
    y = call(model, x * 1.0)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    return [y, x.grad, *(p.grad for p in model.parameters())]


def agree(ours: list[Tensor | None], theirs: list[Tensor | None]) -> None:
    assert [one is None for one in ours] == [other is None for other in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one is None or torch.allclose(one, other, atol=1e-11)  # type: ignore[arg-type]


def other_order(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model.v_proj(x), model.q_proj(x), model.k_proj(x)], -1)  # type: ignore[operator]


def one_is_left_out(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model.q_proj(x), model.v_proj(x)], -1)  # type: ignore[operator]


def one_is_not_used(model: nn.Module, x: Tensor) -> Tensor:
    return [layer(x) for layer in (model.q_proj, model.k_proj, model.v_proj)][1]  # type: ignore[operator]


def one_has_another_input(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model.q_proj(x), model.k_proj(x + 1), model.v_proj(x)], -1)  # type: ignore[operator]


def one_is_called_twice(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model.q_proj(x), model.q_proj(x), model.k_proj(x), model.v_proj(x)], -1)  # type: ignore[operator]


def one_is_called_later(model: nn.Module, x: Tensor) -> Tensor:
    """DeBERTa's way: the row, then two of it on something else."""
    return torch.cat([model(x), model.k_proj(x[:, :1] - 1).expand(-1, x.shape[1], -1)], -1)  # type: ignore[operator]


def computed_again(model: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(model, x, use_reentrant=False)  # type: ignore[return-value]


def computed_again_the_old_way(model: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(model, x, use_reentrant=True)  # type: ignore[return-value]


def part_of_it_computed_again(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([checkpoint(model.q_proj, x, use_reentrant=False), model.k_proj(x), model.v_proj(x)], -1)  # type: ignore[operator, list-item]


CALLS = [
    other_order, one_is_left_out, one_is_not_used, one_has_another_input, one_is_called_twice, one_is_called_later,
    computed_again, computed_again_the_old_way, part_of_it_computed_again,
]  # fmt: skip


@pytest.mark.parametrize("shape", [NARROW, DENSE])
@pytest.mark.parametrize(("kinds", "diagonal"), [(PLAIN, False), (PLAIN, True), (DORA, False)])
def test_it_equals_layers_by_themselves(kinds: Kinds, diagonal: bool, shape: tuple[int, ...]) -> None:
    shared, alone = pair(kinds, diagonal)
    agree(outcome(shared, type(shared).forward, shape), outcome(alone, type(alone).forward, shape))


@pytest.mark.parametrize("shape", [NARROW, DENSE])
@pytest.mark.parametrize("call", CALLS)
def test_it_may_be_called_in_any_way(call: Call, shape: tuple[int, ...]) -> None:
    shared, alone = pair()
    ours, theirs = outcome(shared, call, shape), outcome(alone, call, shape)
    if call is one_is_not_used:  # what was computed and thrown away has gradients of zero here, and none there
        assert all(one is None or not one.any() for one, other in zip(ours, theirs, strict=True) if other is None)
        ours = [None if other is None else one for one, other in zip(ours, theirs, strict=True)]
    agree(ours, theirs)


class Products(TorchDispatchMode):
    """Counts products whose one side has so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.count = rows, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.mm.default and len(args[0]) == self.rows
        return function(*args, **(kwargs or {}))


def test_there_is_one_product_forward_and_one_backward() -> None:
    shared, alone = pair()
    with Products(3 * R) as products:
        outcome(shared, type(shared).forward, NARROW)
    assert products.count == 2  # x A^T of all, and the gradients of all A
    with Products(R) as products:
        outcome(alone, type(alone).forward, NARROW)
    assert products.count == 12


def test_nothing_is_held_when_the_row_is_through() -> None:
    shared, _ = pair()
    shared(torch.ones(2, 3, WIDTH, dtype=torch.float64))
    row = shared.q_proj.shared
    assert isinstance(shared.q_proj, LoRALinear)
    assert (row.x, row.left, row.handed) == (None, [], None)  # type: ignore[union-attr]


def test_wide_factors_and_layers_of_other_widths_are_by_themselves() -> None:
    layers = {
        f"a.{name}": lora_layer(name, nn.Linear(WIDTH, 16), LoRASettings(4, 2.0)) for name in ("q_proj", "v_proj")
    }
    share_inputs(layers)  # type: ignore[arg-type]
    assert all(layer.shared is None for layer in layers.values())  # type: ignore[attr-defined]
