"""Storages are seen when they are made, counted once, and gone when they are freed."""

from __future__ import annotations

import torch

from lrexp.engine.tensors import Tensors

CPU = torch.device("cpu")


def test_a_view_is_no_storage_and_what_is_freed_counts_no_more() -> None:
    with Tensors(CPU) as tensors:
        first = torch.zeros(100)
        view = first.view(10, 10)
        del first
        second = torch.zeros(50)
        assert tensors.peak() == {"activations": 600}
        middle = tensors.clock
        del view
        third = torch.zeros(30)
    assert tensors.peak() == {"activations": 600}
    assert tensors.peak(middle + 1) == {"activations": 200 + 120}
    del second, third


def test_what_autograd_keeps_is_alive_until_the_backward_pass() -> None:
    weight = torch.ones(10, 10, requires_grad=True)
    with Tensors(CPU) as tensors:
        tensors.put([weight], "weights")
        product = torch.ones(5, 10) @ weight  # ones (200 bytes), product (200)
        loss = product.relu().sum()  # relu's output (200) is kept, the sum (4)
        del product
        before = tensors.peak(tensors.clock)
        loss.backward()
        assert weight.grad is not None
        tensors.put([weight.grad], "gradients")
        after = tensors.peak(tensors.clock)
    assert before == {"weights": 400, "activations": 200 + 200 + 4}
    assert after == {"weights": 400, "gradients": 400, "activations": 4}


def test_a_part_can_be_put_back_in_time() -> None:
    with Tensors(CPU) as tensors:
        begin = tensors.clock
        large = torch.zeros(1000)
        del large
        state = torch.zeros(10)
        tensors.put([state], "optimizer", since=begin)
    assert tensors.peak() == {"activations": 4000, "optimizer": 40}
