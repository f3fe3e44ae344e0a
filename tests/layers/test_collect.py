"""Statistics of inputs: padding left out, the pass stopped, the model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lrexp.layers.inputs import collect, find_groups
from lrexp.linalg.moments import MeanMagnitude, SecondMoment
from lrexp.linalg.random import generator


class Block(nn.Module):
    """q, k, v on one input, o on another, one layer twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.twice, self.unused = (nn.Linear(6, 6) for _ in range(6))
        self.drop = nn.Dropout(0.5)
        self.reached: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.q(x) + self.k(x) + self.v(x))
        self.reached.append("o")
        y = self.twice(self.o(y))
        y = self.twice(y)
        self.reached.append("end")
        return y


NAMES = ["q", "k", "v", "o", "twice", "unused"]


def run(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"])


def batches(count: int = 2) -> list[dict[str, Tensor]]:
    draw = generator(0, "x")
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    return [{"x": torch.randn(2, 4, 6, generator=draw), "attention_mask": mask} for _ in range(count)]


def test_a_pass_says_what_it_reaches_and_in_which_order() -> None:
    model = Block()
    groups = find_groups(model, sorted(NAMES), lambda: run(model, batches()[0]))
    assert groups.reached == ("q", "k", "v", "o", "twice") and groups.calls["unused"] == 0
    assert [groups.leader[name] for name in ("q", "k", "v", "o")] == ["q", "q", "q", "o"]
    assert groups.calls["twice"] == 2


def test_moments_leave_padding_out() -> None:
    moment, magnitude = SecondMoment(), MeanMagnitude()
    for accumulator in (moment, magnitude):
        collect(Block(), {"q": 1}, batches(), run, {"q": accumulator})  # type: ignore[arg-type]
    rows = torch.cat([b["x"][b["attention_mask"].bool()] for b in batches()]).double()
    assert moment.tokens == magnitude.tokens == len(rows) == 10
    torch.testing.assert_close(moment.total, rows.T @ rows, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(magnitude.mean(), rows.abs().mean(0), rtol=1e-6, atol=1e-6)


def test_a_layer_called_twice_counts_both_inputs() -> None:
    model, moment = Block(), SecondMoment()
    collect(model, {"twice": 2}, batches(1), run, {"twice": moment})  # type: ignore[arg-type]
    assert moment.tokens == 2 * 5


def test_the_pass_stops_at_the_group_and_leaves_the_model_as_it_was() -> None:
    model = Block().train()
    collect(model, {"q": 1}, batches(), run, {"q": SecondMoment()})  # type: ignore[arg-type]
    assert model.reached == []
    assert model.training and model.drop.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_statistics_come_without_dropout_and_gradients() -> None:
    model = Block().train()
    one, two = SecondMoment(), SecondMoment()
    for moment in (one, two):
        collect(model, {"o": 1}, batches(), run, {"o": moment})  # type: ignore[arg-type]
    assert torch.equal(one.total, two.total) and not one.total.requires_grad


def test_hooks_go_where_the_model_fails() -> None:
    model = Block()
    with pytest.raises(RuntimeError):
        collect(model, {"o": 1}, [{"x": torch.ones(2, 5)}], run, {"o": SecondMoment()})  # type: ignore[arg-type]
    assert not any(module._forward_pre_hooks for module in model.modules())
