"""A frozen linear map plus a low-rank one, as one differentiable function.

Against the plain expression it writes the low-rank part into the base's output (no sum of two large tensors), folds
the scale into products of rank width, saves only the input and the product of rank width, and adds to the input's
gradient in place. All products of rank width are kept as rows, (r, tokens): as columns the same GEMMs take up to
thirteen times longer on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lrexp.linalg.weight_only import Weight, dense

Columns = tuple[tuple[int, int], ...]


def lora_linear(
    x: Tensor,
    W: Weight,
    b: Tensor | None,
    A: Tensor,
    B: Tensor,
    scaling: float,
    columns: Columns | None = None,
    E: Tensor | None = None,
) -> Tensor:
    """Gives x W^T + b + scaling * (x A^T diag(E)) B^T in W's precision; without E it is the identity.

    x (..., n), W (m, n), A (r, n), E (r,), B (m, r). x, A, E and B get gradients (second ones too), W and b none. The
    low-rank part is computed in A's precision; under autocast everything is in autocast's. With `columns`, the j-th
    pair (start, stop) of output columns has its own factors: A (e r, n), E (e r,), B (sum of widths, r). A W in fewer
    bits is made dense for each of its two products and not kept between them.
    """
    return _LoRALinear.apply(x, W, b, A, B, scaling, columns or ((0, W.shape[0]),), E)  # type: ignore[return-value]


def _dtypes(x: Tensor, W: Weight, A: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Precisions of the base's product and of the low-rank one."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind), torch.get_autocast_dtype(kind)
    return W.dtype, A.dtype


def _blocks(B: Tensor, columns: Columns) -> list[Tensor]:
    return list(B.split([stop - start for start, stop in columns]))  # each (width, r)


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Weight,
        b: Tensor | None,
        A: Tensor,
        B: Tensor,
        scaling: float,
        columns: Columns,
        E: Tensor | None,
    ) -> Tensor:
        wide, narrow = _dtypes(x, W, A)
        rows = x.reshape(-1, x.shape[-1])  # (t, n)
        y = F.linear(rows.to(wide), dense(W, wide), None if b is None else b.to(wide)).to(narrow)  # (t, m)
        h = A.to(narrow) @ rows.to(narrow).t()  # (e r, n) @ (n, t)
        heights = _times(h, E).chunk(len(columns))
        for (start, stop), h_j, B_j in zip(columns, heights, _blocks(B, columns), strict=True):
            y[:, start:stop].addmm_(h_j.t(), B_j.to(narrow).t(), alpha=scaling)  # (t, r) @ (r, width)
        ctx.save_for_backward(x, W if isinstance(W, Tensor) else None, A, B, h, E)
        ctx.stored = None if isinstance(W, Tensor) else W
        ctx.scaling, ctx.columns, ctx.dtypes = scaling, columns, (wide, narrow)
        return y.to(wide).view(*x.shape[:-1], W.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, W, A, B, h, E = ctx.saved_tensors
        W = ctx.stored if W is None else W
        (wide, narrow), columns, scaling = ctx.dtypes, ctx.columns, ctx.scaling
        need_x, _, _, need_A, need_B, _, _, need_E = ctx.needs_input_grad
        rows, g = x.reshape(-1, x.shape[-1]), grads[0].reshape(-1, W.shape[0])  # (t, n), (t, m)
        if torch.is_grad_enabled():  # a second derivative runs through h, which was saved without its history
            h = A.to(narrow) @ rows.to(narrow).t()
        pieces = [g[:, start:stop].to(narrow) for start, stop in columns]  # each (t, width)
        dx = dA = dB = dE = None
        if need_B:
            halves = zip(_times(h, E).chunk(len(columns)), pieces, strict=True)
            dB = torch.cat([(h_j @ g_j).t() for h_j, g_j in halves]).mul(scaling).to(B.dtype)  # (r, t) @ (t, width)
        if need_A or need_x or need_E:
            heights = zip(_blocks(B, columns), pieces, strict=True)
            inner = torch.cat([B_j.to(narrow).t().contiguous() @ g_j.t() for B_j, g_j in heights]).mul(
                scaling
            )  # (e r, t)
            if need_E:
                dE = (inner * h).sum(1).to(E.dtype)
            inner = _times(inner, E)
            if need_A:
                dA = (inner @ rows.to(narrow)).to(A.dtype)  # (e r, t) @ (t, n)
            if need_x:
                dx = (g @ dense(W, wide)).to(narrow).addmm_(inner.t(), A.to(narrow))  # (t, e r) @ (e r, n)
                dx = dx.to(x.dtype).view(x.shape)
        return dx, None, None, dA, dB, None, None, dE


def _times(rows: Tensor, E: Tensor | None) -> Tensor:
    """Rows (r, t) times a diagonal."""
    return rows if E is None else rows * E.to(rows.dtype)[:, None]
