"""What flows into layers: shared inputs are known, a pass ends early, gradients are what autograd says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lrexp.layers.inputs import at_rest, find_groups, listen, rows, token_mask
from lrexp.layers.weight_gradients import backward
from lrexp.linalg.random import ambient


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with ambient(0):
            self.q, self.k, self.v, self.o, self.last = (nn.Linear(6, 6) for _ in range(5))
            self.drop = nn.Dropout(0.5)
        self.ran: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.q(x) * self.k(x) + self.v(x.clone())
        y = self.o(self.drop(y))
        self.ran.append("o")
        y = self.o(torch.tanh(y))
        self.ran.append("o again")
        return self.last(y)


def x() -> Tensor:
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


NAMES = ["q", "k", "v", "o"]


def test_layers_of_one_tensor_are_a_group_and_equal_numbers_alone_are_not() -> None:
    net = Net()
    groups = find_groups(net, NAMES, lambda: net(x()))
    assert dict(groups.leader) == {"q": "q", "k": "q", "v": "v", "o": "o"}
    assert dict(groups.calls) == {"q": 1, "k": 1, "v": 1, "o": 2}
    assert groups.leaders == ["q", "v", "o"] and groups.members("q") == ["q", "k"]


@pytest.mark.parametrize(("calls", "ran"), [({"q": 1}, []), ({"v": 1, "o": 2}, ["o"]), ({"last": 1}, ["o", "o again"])])
def test_a_pass_ends_with_the_last_call_that_is_wanted(calls: dict[str, int], ran: list[str]) -> None:
    net, taken = Net(), []
    listen(net, calls, lambda name, x: taken.append(name), lambda: net(x()))
    assert net.ran == ran
    assert sorted(taken) == sorted(name for name, n in calls.items() for _ in range(n))
    net(x())  # no hook is left
    assert len(taken) == sum(calls.values())


def test_a_model_at_rest_has_no_dropout_and_is_left_as_it_was() -> None:
    net = Net().train()
    net.o.eval()
    with at_rest(net):
        assert torch.equal(net(x()), net(x()))
    assert net.training and net.drop.training and not net.o.training


def test_tokens_that_count() -> None:
    ids = torch.ones(2, 3, dtype=torch.long)
    attention = torch.tensor([[1, 1, 0], [1, 1, 1]])
    labels = torch.tensor([[-100, 1, -100], [-100, -100, 1]])
    assert token_mask({"input_ids": ids}, True) is None
    of_items = token_mask({"input_ids": ids, "attention_mask": attention, "labels": ids[:, 0]}, True)
    assert of_items is not None and of_items.equal(attention.bool())
    both = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    assert token_mask(both, True).tolist() == [[False, True, False], [False, False, True]]  # type: ignore[union-attr]
    assert token_mask(both, False).equal(attention.bool())  # type: ignore[union-attr]
    of_tokens = torch.arange(12.0).view(2, 3, 2)
    assert rows(of_tokens, token_mask(both, True)).tolist() == [[2, 3], [10, 11]]
    assert rows(of_tokens[:, 0], token_mask(both, True)).shape == (2, 2)  # one vector an item: the mask says nothing
    assert rows(of_tokens.bfloat16(), None).dtype == torch.float32


def test_gradients_of_frozen_weights_are_those_of_autograd() -> None:
    net = Net().eval()
    net.v.requires_grad_(False)
    net(x()).square().mean().backward()
    expected = {name: getattr(net, name).weight.grad for name in ("q", "k", "o")}
    net.zero_grad()
    found: dict[str, Tensor] = {}

    def take(name: str, g: Tensor, x: Tensor) -> None:
        found[name] = found.get(name, torch.zeros(6, 6)) + g.mT @ x

    backward(net, ["q", "k", "o"], take, lambda: net(x()).square().mean())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in net.parameters())
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["v.weight", "v.bias"]
