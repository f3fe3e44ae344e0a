"""The fused function against the plain expression: values, gradients, precisions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lrexp.layers.lora_form import Form
from lrexp.layers.lora_function import Columns, Map, _form, lora_linear

SCALING = 1.7


def tensors(
    shape: tuple[int, ...] = (3, 5), dtype: torch.dtype = torch.float64, factors: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x (*shape, 6), W (9, 6), b (9,), A (4, 6), B (9, 4)."""
    generator = torch.Generator().manual_seed(0)
    x, W, b = (torch.randn(s, generator=generator).to(dtype) for s in ((*shape, 6), (9, 6), (9,)))
    A, B = (torch.randn(s, generator=generator).to(factors or dtype).requires_grad_() for s in ((4, 6), (9, 4)))
    return x.requires_grad_(), W, b, A, B


def plain(x: Tensor, W: Tensor, b: Tensor | None, A: Tensor, B: Tensor) -> Tensor:
    output = F.linear(x, W, b)
    return (output + F.linear(F.linear(x.to(A.dtype), A), B) * SCALING).to(output.dtype)


def gradients(y: Tensor, of: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, y.numel()).view(y.shape)
    return torch.autograd.grad((y.float() * weights).sum(), of)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), ()])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_plain_expression(shape: tuple[int, ...], bias: bool) -> None:
    x, W, b, A, B = tensors(shape)
    b = b if bias else None
    y, expected = lora_linear(x, Map(W, b, A, B, SCALING)), plain(x, W, b, A, B)
    assert torch.allclose(y, expected, atol=1e-12)
    for ours, theirs in zip(gradients(y, (x, A, B)), gradients(expected, (x, A, B)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("columns", [None, ((0, 3), (6, 9))])
def test_first_and_second_derivatives(columns: Columns | None) -> None:
    x, W, b, A, B = tensors((3,))
    B = B if columns is None else torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    B = B.detach().requires_grad_()

    def function(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return lora_linear(x, Map(W, b, A, B, SCALING, columns))

    assert torch.autograd.gradcheck(function, (x, A, B))
    assert torch.autograd.gradgradcheck(function, (x, A, B))


@pytest.mark.parametrize("columns", [None, ((0, 3), (6, 9))])
def test_a_diagonal_between_the_factors(columns: Columns | None) -> None:
    x, W, b, A, B = tensors((3,))
    generator = torch.Generator().manual_seed(1)
    if columns is not None:
        B = torch.randn(6, 2, dtype=torch.float64, generator=generator).requires_grad_()
    E = torch.randn(4, dtype=torch.float64, generator=generator).requires_grad_()

    def function(x: Tensor, A: Tensor, B: Tensor, E: Tensor) -> Tensor:
        return lora_linear(x, Map(W, b, A, B, SCALING, columns, E))

    rows = A * E[:, None]
    expected = lora_linear(x, Map(W, b, rows, B, SCALING, columns))
    assert torch.allclose(function(x, A, B, E), expected, atol=1e-12)
    for ours, theirs in zip(
        gradients(function(x, A, B, E), (x, A, B, E)), gradients(expected, (x, A, B, E)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.autograd.gradcheck(function, (x, A, B, E))
    assert torch.autograd.gradgradcheck(function, (x, A, B, E))


FORMS = {"narrow": 1, "a dense weight": 9, "a dense gradient too": 60}  # rows for which each is the cheapest


@pytest.mark.parametrize("columns", [None, ((0, 3), (6, 9))])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_exact(name: str, columns: Columns | None) -> None:
    """Values and derivatives of all that is trained, second ones too, whatever is formed densely."""
    x, W, b, A, B = tensors((FORMS[name],))
    rank = 1 if name == "a dense weight" else 2
    A, generator = A.detach()[: rank * (2 if columns else 1)].requires_grad_(), torch.Generator().manual_seed(1)
    sizes = ((6 if columns else 9, rank), (len(A),))
    B, E = (torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_() for size in sizes)
    gain = torch.linspace(0.5, -2, 9, dtype=torch.float64).requires_grad_()
    chosen = _form(x, Map(W, b, A, B, SCALING, columns, E, gain))
    assert chosen == Form(weight=name != "narrow", gradient=name == "a dense gradient too")

    def function(x: Tensor, A: Tensor, B: Tensor, E: Tensor, gain: Tensor | None = None) -> Tensor:
        return lora_linear(x, Map(W, b, A, B, SCALING, columns, E, gain))

    def expected(x: Tensor, A: Tensor, B: Tensor, E: Tensor, gain: Tensor) -> Tensor:
        change = torch.zeros_like(W)
        for (start, stop), A_j, E_j, B_j in zip(
            columns or ((0, 9),), A.split(rank), E.split(rank), B.split(3 if columns else 9), strict=True
        ):
            change[start:stop] = B_j @ (E_j[:, None] * A_j)
        return F.linear(x, W + SCALING * change) * gain + b

    given = (x, A, B, E, gain)
    assert torch.allclose(function(*given), expected(*given), atol=1e-12)
    for ours, theirs in zip(gradients(function(*given), given), gradients(expected(*given), given), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    if len(x) < 10:
        assert torch.autograd.gradcheck(function, given)
        assert torch.autograd.gradgradcheck(function, given[:4])


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (1, 2), (0, 2)])
def test_only_what_needs_a_gradient_gets_one(needed: tuple[int, ...]) -> None:
    x, W, b, A, B = tensors()
    leaves = [leaf.detach().requires_grad_(i in needed) for i, leaf in enumerate((x, A, B))]
    lora_linear(leaves[0], Map(W, b, leaves[1], leaves[2], SCALING)).sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [i in needed for i in range(3)]


def test_wants_no_contiguous_input() -> None:
    x, W, b, A, B = tensors((3, 5))
    turned = x.detach().mT.contiguous().mT.requires_grad_()
    assert torch.allclose(lora_linear(turned, Map(W, b, A, B, SCALING)), plain(x, W, b, A, B), atol=1e-12)


def test_bf16_base_with_float32_factors() -> None:
    x, W, b, A, B = tensors(dtype=torch.bfloat16, factors=torch.float32)
    y, expected = lora_linear(x, Map(W, b, A, B, SCALING)), plain(x, W, b, A, B)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    for ours, theirs in zip(gradients(y, (x, A, B)), gradients(expected, (x, A, B)), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours.float(), theirs.float(), rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_autocast_gives_what_it_gives_the_plain_expression(base: torch.dtype) -> None:
    x, W, b, A, B = tensors(dtype=base, factors=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = lora_linear(x, Map(W, b, A, B, SCALING)), plain(x, W, b, A, B)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert torch.allclose(y.float(), expected.float(), rtol=2e-2, atol=0.1)
    for ours, theirs in zip(gradients(y, (x, A, B)), gradients(expected, (x, A, B)), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours.float(), theirs.float(), rtol=2e-2, atol=0.3)


def test_zero_B_gives_the_base_bit_for_bit() -> None:
    x, W, b, A, B = tensors(dtype=torch.float32)
    assert torch.equal(lora_linear(x, Map(W, b, A, torch.zeros_like(B), SCALING)), F.linear(x, W, b))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own doing
def test_compiles_to_one_graph() -> None:
    x, W, b, A, B = tensors(dtype=torch.float32)
    compiled = torch.compile(lora_linear, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x, Map(W, b, A, B, SCALING)), plain(x, W, b, A, B)
    assert torch.allclose(y, expected, atol=1e-5)
    for ours, theirs in zip(gradients(y, (x, A, B)), gradients(expected, (x, A, B)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
