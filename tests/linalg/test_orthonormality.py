"""The closed form of the penalty against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lrexp.linalg.orthonormality import Penalty, gradients, mean_distance

PENALTIES: tuple[Penalty, ...] = ("norm", "squared")


def stacks(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 7), (1, 4, 5), (1, 3, 7), (3, 2, 2)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def by_autograd(given: list[Tensor], penalty: Penalty) -> tuple[Tensor, list[Tensor]]:
    leaves = [stack.clone().requires_grad_() for stack in given]
    norms = [(Q @ Q.mT - torch.eye(len(Q), dtype=Q.dtype)).norm() for stack in leaves for Q in stack]
    value = torch.stack(norms if penalty == "norm" else [norm**2 for norm in norms]).mean()
    return value.detach(), list(torch.autograd.grad(value, leaves))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_value_and_gradients_are_those_of_autograd(penalty: Penalty) -> None:
    value, expected = by_autograd(stacks(), penalty)
    torch.testing.assert_close(mean_distance(stacks(), penalty), value, rtol=1e-14, atol=0)
    for found, wanted in zip(gradients(stacks(), penalty), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_where_all_is_orthonormal_there_is_no_gradient(penalty: Penalty) -> None:
    exact = torch.eye(3, 5)[None]
    assert mean_distance([exact], penalty) == 0
    assert not gradients([exact], penalty)[0].any()


def test_close_to_it_the_norm_keeps_its_gradient_and_the_square_does_not() -> None:
    near = torch.linalg.qr(torch.randn(40, 8, generator=torch.Generator().manual_seed(1))).Q.mT[None]
    assert mean_distance([near]) < 1e-5
    assert gradients([near], "norm")[0].norm() == pytest.approx(2, rel=1e-3)
    assert gradients([near], "squared")[0].norm() < 1e-4


def test_bf16_is_widened() -> None:
    narrow = stacks(torch.bfloat16)
    wide = [stack.float() for stack in narrow]
    assert torch.equal(mean_distance(narrow), mean_distance(wide))
    assert all(torch.equal(*pair) for pair in zip(gradients(narrow), gradients(wide), strict=True))
