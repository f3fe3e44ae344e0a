"""The sparse-plus-low-rank operation: both its ways against the dense formula, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lrexp.layers import sparse_low_rank_function as function
from lrexp.layers.factorised import make_plain
from lrexp.layers.sparse_low_rank import SparseLowRankLinear
from lrexp.linalg.random import generator
from lrexp.linalg.sparse import draw_support


@pytest.fixture(params=[True, False], ids=["direct", "formed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Takes one way whatever the shapes, the direct one in pieces of three tokens."""
    monkeypatch.setattr(function, "is_direct", lambda *_: request.param)
    monkeypatch.setattr(function, "TOKENS", 3)
    return request.param


def leaves(m: int = 7, n: int = 5, r: int = 3, nnz: int = 9, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, A, B, v, bias."""
    draw = generator(0, "leaves")
    shapes = [(2, 4, n), (r, n), (m, r), (nnz,), (m,)]
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def support(size: int = 35, nnz: int = 9) -> Tensor:
    return draw_support(size, nnz, generator(0, "support"))


def dense(A: Tensor, B: Tensor, v: Tensor, positions: Tensor, s: float) -> Tensor:
    W = s * B @ A
    return W.view(-1).index_add(0, positions.long(), v).view_as(W)


@pytest.mark.usefixtures("way")
def test_gradients_are_those_of_finite_differences() -> None:
    x, A, B, v, bias = leaves()

    def with_bias(x: Tensor, A: Tensor, B: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return function.sparse_low_rank(x, A, B, v, support(), bias, 0.7)

    assert torch.autograd.gradcheck(with_bias, (x, A, B, v, bias))
    assert torch.autograd.gradcheck(with_bias, (x, A, B, v))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
def test_output_and_gradients_are_those_of_the_dense_formula(dtype: torch.dtype, tolerance: float) -> None:
    mine = leaves(dtype=dtype)
    theirs = [t.detach().double().requires_grad_() for t in mine]
    x, A, B, v, bias = mine
    y = function.sparse_low_rank(x, A, B, v, support(), bias, 0.7)
    expected = F.linear(theirs[0], dense(*theirs[1:4], support(), 0.7), theirs[4])
    g = torch.randn(y.shape, generator=generator(0, "g"), dtype=torch.float64).to(dtype)
    found = [y, *torch.autograd.grad(y, mine, g)]
    wanted = [expected, *torch.autograd.grad(expected, theirs, g.double())]
    assert all(t.dtype == dtype for t in found)
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.usefixtures("way")
def test_autocast_gives_its_precision_and_leaves_the_gradients_theirs() -> None:
    x, A, B, v, bias = mine = leaves(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = function.sparse_low_rank(x, A, B, v, support(), bias, 0.7)
    W = dense(A, B, v, support(), 0.7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = F.linear(x, W, bias)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(y.float().sum(), mine))


@pytest.mark.usefixtures("way")
def test_nothing_of_the_size_of_the_weight_is_kept() -> None:
    x, A, B, v, bias = leaves()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function.sparse_low_rank(x, A, B, v, support(), bias, 0.7)
    assert {tuple(t.shape) for t in kept} == {(2, 4, 5), (3, 5), (7, 3), (9,)}


@pytest.mark.usefixtures("way")
def test_a_frozen_input_and_no_tokens() -> None:
    x, A, B, v, bias = leaves()
    y = function.sparse_low_rank(x.detach(), A, B, v, support(), bias, 0.7)
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(y.sum(), [A, B, v, bias]))
    empty = function.sparse_low_rank(x[:, :0], A, B, v, support(), bias, 0.7)
    assert empty.shape == (2, 0, 7)
    assert all(not g.any() for g in torch.autograd.grad(empty.sum(), [A, B, v]))


def test_the_direct_way_never_builds_the_weight() -> None:
    """Above inputs and results it allocates less than one float of every position of the weight."""
    m, n, r, nnz, tokens = 600, 800, 16, 1000, 256
    draw = generator(0, "large")
    x, A, B, v, g = (
        torch.randn(s, generator=draw, requires_grad=True) for s in ((tokens, n), (r, n), (m, r), (nnz,), (tokens, m))
    )
    positions = draw_support(m * n, nnz, draw)
    assert function.is_direct(x, (m, n), r, nnz)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        y = function.sparse_low_rank(x, A, B, v, positions, None, 0.5)
        torch.autograd.grad(y, [x, A, B, v], g.detach())
    events: list[Any] = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    allocated = [e.nbytes() for e in events if e.name() == "[memory]"]
    assert max(allocated) <= 4 * tokens * n < 4 * m * n


def test_the_way_is_chosen_by_shape() -> None:
    x = torch.empty(2048, 1376)
    assert function.is_direct(x, (512, 1376), 128, 21135)
    assert not function.is_direct(x, (512, 1376), 512, 21135)  # full rank
    assert not function.is_direct(x, (512, 1376), 128, 350_000)  # half dense
    assert not function.is_direct(x.to("meta"), (512, 1376), 128, 21135)


def filled(base: nn.Module, trainable_scaling: bool) -> SparseLowRankLinear:
    layer = SparseLowRankLinear(base, 3, 8, 0.5, trainable_scaling)
    with torch.no_grad():
        for name in ("A", "B", "v"):
            parameter = getattr(layer, name)
            parameter.copy_(torch.randn(parameter.shape, generator=generator(0, name)))
        layer.support.copy_(support(24, 8))
    return layer


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("trainable_scaling", [False, True])
@pytest.mark.parametrize("base", [nn.Linear(6, 4), nn.Linear(6, 4, bias=False), Conv1D(4, 6)])
def test_plain_layer_gives_the_same_outputs(base: nn.Module, trainable_scaling: bool) -> None:
    model = nn.Sequential(filled(base, trainable_scaling))
    x = torch.randn(2, 5, 6, generator=generator(0, "x"))
    before = model(x)
    plain = make_plain(model)
    assert type(plain[0]) is type(base)  # type: ignore[index]
    torch.testing.assert_close(plain(x), before)


@pytest.mark.usefixtures("way")
def test_a_trained_scaling_gets_its_gradient() -> None:
    layer = filled(nn.Linear(6, 4), True).double()
    assert layer.support.dtype == torch.int16  # a cast of the model leaves it alone
    x = torch.randn(5, 6, generator=generator(0, "x"), dtype=torch.float64)
    layer(x).square().sum().backward()
    assert layer.p is not None and layer.p.grad is not None
    p = torch.ones((), dtype=torch.float64, requires_grad=True)
    W = dense(layer.A, layer.B, layer.v, layer.support, 1.0) + (p.tanh() - 1) * layer.B @ layer.A
    (expected,) = torch.autograd.grad(F.linear(x, W, layer.bias).square().sum(), [p])
    torch.testing.assert_close(layer.p.grad, expected)


@pytest.mark.usefixtures("way")
def test_compiled_it_is_one_graph_with_the_same_numbers() -> None:
    layer = filled(nn.Linear(6, 4), False)
    x = torch.randn(2, 5, 6, generator=generator(0, "x"))
    found = []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        inputs = x.clone().requires_grad_()
        y = call(inputs)
        found.append([y, *torch.autograd.grad(y.square().sum(), [inputs, *layer.parameters()])])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
