"""y = x (s B A + S)^T + b as one differentiable operation that saves x, A, B, v and the support, and no m x n matrix.

Two ways to the same numbers, chosen by shape (`is_direct`):
- direct: the weight is never formed. A few hundred tokens at a time, as columns: the factors are applied one after the
  other, S as a sparse product, and the gradient of v is a dense-dense product sampled at the support. In float32 or
  better; CPU only, where torch has fast kernels for all three.
- formed: the weight is built, used and dropped in the forward pass and again in the backward pass, where its whole
  gradient is built too: the algorithm of the authors (Han et al. 2024, arXiv 2406.02214, section 3.3). The large
  products are in x's precision.

Both are opaque to autograd and to torch.compile: what lies in here is not traced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from lrexp.linalg.sparse import csr, transposed_csr

TOKENS = 128  # in one piece of the direct way: its columns stay in a core's cache
# What an operation costs in multiplications of a dense float32 product, measured on one CPU thread.
SPARSE_COST = 4.0  # one multiplication in a sparse product
MOVE_COST = 60.0  # one number turned from rows to columns or back
HALF_GAIN = 2.1  # how much faster dense products are in 16 bits, which only the formed way uses


def sparse_low_rank(
    x: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, bias: Tensor | None, scaling: float
) -> Tensor:
    """Gives x (scaling B A + S)^T + bias in x's precision (autocast's under autocast); all but support get gradients.

    x (..., n), A (r, n), B (m, r); S (m, n) has v (nnz,) at its `support`, flat row-major positions, ascending.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    return _forward(x, A, B, v, support, bias, scaling)


def is_direct(x: Tensor, shape: tuple[int, int], r: int, nnz: int) -> bool:
    """Whether forward and backward pass over the tokens of x are estimated to be quicker without the weight."""
    if x.device.type != "cpu":
        return False
    m, n = shape
    tokens = x.numel() // n
    gain = 1.0 if x.element_size() >= 4 else HALF_GAIN
    direct = tokens * (r * (3 * m + 4 * n) + SPARSE_COST * 3 * nnz + MOVE_COST * (2 * m + 3 * n))
    formed = 3 * tokens * m * n + 4 * r * m * n
    return direct < formed / gain


@torch.library.custom_op("lrexp::sparse_low_rank", mutates_args=())
def _forward(
    x: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, bias: Tensor | None, scaling: float
) -> Tensor:
    m, n = B.shape[0], A.shape[1]
    rows = x.reshape(-1, n)  # (t, n)
    with torch.autocast(x.device.type, enabled=False):
        if not is_direct(x, (m, n), A.shape[0], v.numel()):
            W = dense(A, B, v, support, scaling).to(x.dtype)
            return F.linear(rows, W, None if bias is None else bias.to(x.dtype)).view(*x.shape[:-1], m)
        y = rows.new_empty(rows.shape[0], m)
        A, B, v = (t.to(_wide(x)) for t in (A, B, v))
        S = csr(support, v, (m, n))
        for begin in range(0, rows.shape[0], TOKENS):
            piece = slice(begin, begin + TOKENS)
            xt = _columns(rows[piece])  # (n, k)
            yt = _sparse_times(S, xt)  # (m, n) @ (n, k)
            yt.addmm_(B, A @ xt, alpha=scaling)  # (m, r) @ (r, k)
            y[piece] = yt.t() if bias is None else (yt + bias.to(yt)[:, None]).t()
        return y.view(*x.shape[:-1], m)


@_forward.register_fake
def _(x: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    return x.new_empty(*x.shape[:-1], B.shape[0])


@torch.library.custom_op("lrexp::sparse_low_rank_backward", mutates_args=())
def _backward(
    g: Tensor, x: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, scaling: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x (nothing in it where it is not needed), A, B and v."""
    m, n = B.shape[0], A.shape[1]
    rows, g = x.reshape(-1, n), g.reshape(-1, m)
    with torch.autocast(x.device.type, enabled=False):
        way = _direct_backward if is_direct(x, (m, n), A.shape[0], v.numel()) else _formed_backward
        dx, dA, dB, dv = way(g, rows, A, B, v, support, scaling, need_x)
    return dx.view(x.shape if need_x else 0), dA.to(A.dtype), dB.to(B.dtype), dv.to(v.dtype)


@_backward.register_fake
def _(
    g: Tensor, x: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, scaling: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else 0), torch.empty_like(A), torch.empty_like(B), torch.empty_like(v)


def _direct_backward(
    g: Tensor, rows: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, scaling: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide, (m, n) = _wide(rows), (B.shape[0], A.shape[1])
    A, B, v = (t.to(wide) for t in (A, B, v))
    dx = torch.empty_like(rows) if need_x else rows.new_empty(0)
    dA, dB = torch.zeros_like(A), torch.zeros_like(B)
    dS = csr(support, torch.zeros_like(v), (m, n))
    St = transposed_csr(support, v, (m, n)) if need_x else None
    for begin in range(0, rows.shape[0], TOKENS):
        piece = slice(begin, begin + TOKENS)
        xt, gt = _columns(rows[piece]), _columns(g[piece])  # (n, k), (m, k)
        inner = (B.t() @ gt).mul_(scaling)  # (r, m) @ (m, k)
        dA.addmm_(inner, xt.t())  # (r, k) @ (k, n)
        dB.addmm_(gt, (A @ xt).t(), alpha=scaling)  # (m, k) @ (k, r)
        torch.sparse.sampled_addmm(dS, gt, xt.t(), beta=1.0, out=dS)  # of (m, k) @ (k, n), at the support alone
        del xt  # its place is free for the columns below
        if St is not None:
            dx[piece] = _sparse_times(St, gt).addmm_(A.t(), inner).t()  # (n, m) @ (m, k) and (n, r) @ (r, k)
    return dx, dA, dB, dS.values()


def _formed_backward(
    g: Tensor, rows: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, scaling: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = g @ dense(A, B, v, support, scaling).to(g.dtype) if need_x else rows.new_empty(0)  # (t, m) @ (m, n)
    G = (g.t() @ rows).to(A.dtype)  # (m, t) @ (t, n)
    dA = (B.t() @ G).mul_(scaling)  # (r, m) @ (m, n)
    dB = (G @ A.t()).mul_(scaling)  # (m, n) @ (n, r)
    return dx, dA, dB, G.view(-1)[support.long()]


def dense(A: Tensor, B: Tensor, v: Tensor, support: Tensor, scaling: float | Tensor) -> Tensor:
    """The matrix s B A + S, dense (m, n), in the precision of what is given."""
    W = (B * scaling) @ A
    flat, positions = W.view(-1), support.long()
    flat[positions] = flat[positions] + v  # no position comes twice: deterministic on every device
    return W


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _columns(rows: Tensor) -> Tensor:
    """Tokens as columns: the transpose, contiguous and in float32 or better."""
    k, width = rows.shape
    return torch.empty(width, k, dtype=_wide(rows)).copy_(rows.t())


def _sparse_times(S: Tensor, columns: Tensor) -> Tensor:
    """The product of a CSR matrix and a dense one, by the kernel that is faster than MKL's and adds in order."""
    return torch.sparse.mm(S, columns, reduce="sum")  # type: ignore[call-overload]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, A, B, v, support, bias, scaling = inputs
    ctx.save_for_backward(x, A, B, v, support)
    ctx.scaling, ctx.bias_dtype = scaling, None if bias is None else bias.dtype


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, A, B, v, support = ctx.saved_tensors
    dx, dA, dB, dv = _backward(g, x, A, B, v, support, ctx.scaling, ctx.needs_input_grad[0])
    wide = torch.promote_types(g.dtype, torch.float32)
    db = None if ctx.bias_dtype is None else g.reshape(-1, g.shape[-1]).sum(0, dtype=wide).to(ctx.bias_dtype)
    return (dx if ctx.needs_input_grad[0] else None), dA, dB, dv, None, db, None


_forward.register_autograd(_gradients, setup_context=_keep)


@register_flop_formula(torch.ops.lrexp.sparse_low_rank, get_raw=True)
def _flops(
    x: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, bias: Tensor | None, scaling: float, out_val: Any
) -> int:
    (r, n), m = A.shape, B.shape[0]
    tokens = x.numel() // n
    if is_direct(x, (m, n), r, v.numel()):
        return 2 * tokens * (r * (m + n) + v.numel())
    return 2 * tokens * m * n + 2 * r * m * n


@register_flop_formula(torch.ops.lrexp.sparse_low_rank_backward, get_raw=True)
def _flops_backward(
    g: Tensor, x: Tensor, A: Tensor, B: Tensor, v: Tensor, support: Tensor, scaling: float, need_x: bool, out_val: Any
) -> int:
    (r, n), m = A.shape, B.shape[0]
    tokens = x.numel() // n
    if is_direct(x, (m, n), r, v.numel()):
        return 2 * tokens * (r * (2 * m + 2 * n + (n if need_x else 0)) + v.numel() * (1 + need_x))
    return 2 * tokens * m * n * (1 + need_x) + 2 * r * m * n * (2 + need_x)
