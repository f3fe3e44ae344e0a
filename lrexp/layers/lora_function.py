"""A frozen linear map plus a low-rank one, as one differentiable function, and a row of them on one input.

    y = g * (x W^T + s (x A^T diag(E)) B^T) + b      x (..., n), W (m, n), A (r, n), E (r,), B (m, r), g and b (m,)

Against the plain expression it writes the low-rank part into the base's output (no sum of two large tensors), folds
the scale into products of rank width, saves only the input and the product of rank width, and adds to the input's
gradient in place. All products of rank width are kept as rows, (r, tokens): as columns the same GEMMs take up to
thirteen times longer on a CPU. Where `lora_form` counts fewer operations, x (W + s B diag(E) A)^T is one product with a
dense weight that lives for that product alone, and x A^T is computed in the backward pass instead of being kept.

Layers that are called on one input (q, k and v) hand it on: the first computes x A^T for all of them in one product,
and each adds what it has of the gradient of x to that of the layer after it, in one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lrexp.layers.lora_form import NARROW, Form, form
from lrexp.linalg.weight_only import Weight, dense

Columns = tuple[tuple[int, int], ...]
CHUNK = 256  # rows at a time where two large tensors are multiplied and summed


class Map(NamedTuple):
    """A layer's W (m, n), b (m,), A (r, n), B (m, r), s, E (r,) and gain g (m,); None: there is none.

    With `columns`, the j-th pair (start, stop) of output columns has its own factors: A (e r, n), E (e r,),
    B (sum of widths, r). A W in fewer bits is made dense for each of its two products and not kept between them.
    """

    W: Weight
    b: Tensor | None
    A: Tensor
    B: Tensor
    scaling: float
    columns: Columns | None = None
    E: Tensor | None = None
    gain: Tensor | None = None


class Handed(NamedTuple):
    """What the layers to come get from the one before: the input, x A^T for each of them, the form of all."""

    x: Tensor
    heights: tuple[Tensor, ...]  # each (r, t)
    form: Form


def lora_linear(x: Tensor, own: Map) -> Tensor:
    """The output y, in W's precision. W and b get no gradient; x, A, E, B and the gain do (not second ones: the gain).

    The low-rank part is computed in A's precision; under autocast everything is in autocast's. An output whose gain is
    exactly 0 gives the gain no gradient.
    """
    return _LoRALinear.apply(x, *own, None, _form(x, own))[0]  # type: ignore[index]


def first(x: Tensor, own: Map, others: Sequence[Tensor]) -> tuple[Tensor, Handed]:
    """The output of the first of several layers on one input; `others` are the A of those to come, in their order."""
    chosen = Form(weight=_form(x, own).weight)
    y, handed, *heights = _LoRALinear.apply(x, *own, None, chosen, *others)  # type: ignore[misc]
    return y, Handed(handed if x.requires_grad else x, tuple(heights), chosen)


def following(before: Handed, own: Map, i: int = 0) -> tuple[Tensor, Handed]:
    """The output of the i-th of those that are left, and what it hands on."""
    y, handed = _LoRALinear.apply(before.x, *own, before.heights[i], before.form)  # type: ignore[misc]
    heights = before.heights[:i] + before.heights[i + 1 :]
    return y, Handed(handed if before.x.requires_grad else before.x, heights, before.form)


def _form(x: Tensor, own: Map) -> Form:
    """The form that takes the fewest operations; the narrow one where rounding W + s B A would lose the change."""
    wide, narrow = _dtypes(x, own.W, own.A)
    if wide != narrow or wide not in (torch.float32, torch.float64):
        return NARROW
    if x.is_cuda and wide == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        return NARROW
    factors = own.A.requires_grad or own.B.requires_grad
    anything = factors or x.requires_grad or (own.E is not None and own.E.requires_grad)
    trains = (factors, anything) if anything and torch.is_grad_enabled() else None
    return form(x.numel() // x.shape[-1], x.shape[-1], own.A.numel(), own.B.numel(), own.B.shape[0], trains)


def _dtypes(x: Tensor, W: Weight, A: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Precisions of the base's product and of the low-rank one."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind), torch.get_autocast_dtype(kind)
    return W.dtype, A.dtype


class _LoRALinear(torch.autograd.Function):
    """Gives y, and where layers follow the input and x A^T for each of them; `given` is this layer's, if it follows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Weight,
        b: Tensor | None,
        A: Tensor,
        B: Tensor,
        scaling: float,
        columns: Columns | None,
        E: Tensor | None,
        gain: Tensor | None,
        given: Tensor | None,
        chosen: Form,
        *others: Tensor,
    ) -> tuple[Tensor, ...]:
        wide, narrow = _dtypes(x, W, A)
        blocks = Blocks(columns or ((0, W.shape[0]),), scaling, narrow)
        rows = x.reshape(-1, x.shape[-1])  # (t, n)
        h, heights = given, []
        if given is None and (others or not chosen.weight):
            h, *heights = _heights(rows, (A, *others), narrow)
        bias = None if b is None else _in(b, wide)
        if chosen.weight:
            y = F.linear(_in(rows, wide), blocks.weight(W, A, B, E, gain), bias)
        else:
            assert h is not None
            y = _in(F.linear(_in(rows, wide), dense(W, wide), bias if gain is None else None), narrow)  # (t, m)
            for y_j, h_j, B_j in zip(blocks.of_columns(y), blocks.scaled(h, E), blocks.cut(B), strict=True):
                y_j.addmm_(h_j.t(), B_j.t(), alpha=scaling)  # (t, r) @ (r, width)
            if gain is not None:
                y = y.mul_(gain) if bias is None else y.mul_(gain).add_(bias)
        y = _in(y, wide).view(*x.shape[:-1], W.shape[0])
        kept = None if given is not None else h
        ctx.stored, plain = (None, W) if isinstance(W, Tensor) else (W, None)
        ctx.save_for_backward(x, plain, b, A, B, E, gain, given, kept, None if gain is None else y, *others)
        ctx.blocks, ctx.chosen, ctx.dtypes = blocks, chosen, (wide, narrow)
        ctx.set_materialize_grads(False)
        return (y, x, *heights) if given is not None or others else (y,)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        saved: tuple[Any, ...] = ctx.saved_tensors
        x, W, b, A, B, E, gain, given, h, y, *others = saved
        W = ctx.stored if W is None else W
        (wide, narrow), blocks, chosen = ctx.dtypes, ctx.blocks, ctx.chosen
        need_x, _, _, need_A, need_B, _, _, need_E, need_gain, need_given, _, *need_others = ctx.needs_input_grad
        rows = x.reshape(-1, x.shape[-1])  # (t, n)
        g = rows.new_zeros(len(rows), W.shape[0]) if grads[0] is None else grads[0].reshape(-1, W.shape[0])  # (t, m)
        dx = dA = dB = dE = inner = None
        dothers: Sequence[Tensor | None] = [None] * len(others)
        if chosen.gradient:
            dA, dB, dE = blocks.through_weight(g, _in(rows, wide), A, B, E, gain, need_B)
            dA = dA if need_A else None
        else:
            if given is not None:
                h = given
            elif h is None or torch.is_grad_enabled():  # a second derivative runs through h, which has no history
                (h,) = _heights(rows, (A,), narrow)
            dB = _in(blocks.to_B(h, g, E, gain), B.dtype) if need_B else None
            if need_A or need_E or need_given or any(need_others) or (need_x and not chosen.weight):
                inner = blocks.to_heights(g, B, gain)  # (e r, t)
                dE = (inner * h).sum(1).to(E.dtype) if need_E else None
                inner = inner if E is None else inner * E.to(narrow)[:, None]
        if inner is not None and given is None:
            inner = _joined([inner, *(_or_zeros(d, F_j, inner) for d, F_j in zip(grads[2:], others, strict=True))])
            if need_A or any(need_others):
                stacked = _in(inner @ _in(rows, narrow), A.dtype)  # (e r, t) @ (t, n)
                dA, *found = stacked.split([len(F_j) for F_j in (A, *others)]) if others else [stacked]
                dothers = [None if d is None else d_j for d, d_j in zip(grads[2:], found, strict=True)]
        if need_x:
            weight = blocks.weight(W, A, B, E, gain) if chosen.weight else dense(W, wide)
            through = g if chosen.weight or gain is None else (g * gain).to(wide)
            dx = _added(grads[1] if len(grads) > 1 else None, through, weight)
            if not chosen.weight and given is None:
                assert inner is not None
                dx = _in(dx, narrow).addmm_(inner.t(), _in(_joined([A, *others]), narrow))  # (t, e r) @ (e r, n)
            dx = _in(dx, x.dtype).view(x.shape)
        dgain = _to_gain(g, y.view(g.shape), b, gain) if need_gain and gain is not None else None
        return dx, None, None, dA, dB, None, None, dE, dgain, inner if need_given else None, None, *dothers


class Blocks(NamedTuple):
    """The blocks of output columns that have factors of their own; one, but for a fused layer. Products in `dtype`."""

    columns: Columns
    scaling: float
    dtype: torch.dtype

    def cut(self, B: Tensor, gain: Tensor | None = None) -> list[Tensor]:
        """B_j, each (width, r), times the gain of its rows."""
        B = _in(B, self.dtype)
        parts = [B] if len(self.columns) == 1 else B.split([stop - start for start, stop in self.columns])
        return [_rows_times(B_j, gain, span) for B_j, span in zip(parts, self.columns, strict=True)]

    def scaled(self, rows: Tensor, E: Tensor | None) -> Sequence[Tensor]:
        """Rows (e r, k) times the diagonal, cut into blocks (r, k)."""
        rows = rows if E is None else rows * _in(E, rows.dtype)[:, None]
        return [rows] if len(self.columns) == 1 else rows.chunk(len(self.columns))

    def of_columns(self, y: Tensor) -> list[Tensor]:
        """The adapted columns of a (t, m), each (t, width): views of it, where it has the precision."""
        y = _in(y, self.dtype)
        return [y if stop - start == y.shape[1] else y[:, start:stop] for start, stop in self.columns]

    def weight(self, W: Weight, A: Tensor, B: Tensor, E: Tensor | None, gain: Tensor | None) -> Tensor:
        """The dense g (W + s B diag(E) A), (m, n)."""
        found = W.to(self.dtype, copy=True) if isinstance(W, Tensor) else dense(W, self.dtype)
        for (start, stop), B_j, A_j in zip(self.columns, self.cut(B), self.scaled(_in(A, self.dtype), E), strict=True):
            found[start:stop].addmm_(B_j, A_j, alpha=self.scaling)  # (width, r) @ (r, n)
        return found if gain is None else found.mul_(gain[:, None])

    def through_weight(
        self, g: Tensor, rows: Tensor, A: Tensor, B: Tensor, E: Tensor | None, gain: Tensor | None, needs_B: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The gradients of A, B (where it is needed) and E out of that of the weight, g^T x."""
        dA, dB, dE = [], [], []
        As, EAs = self.scaled(A, None), self.scaled(A, E)
        for g_j, A_j, EA_j, B_j, span in zip(self.of_columns(g), As, EAs, self.cut(B), self.columns, strict=True):
            dW = g_j.t() @ rows  # (width, t) @ (t, n)
            inner = _rows_times(B_j, gain, span).t() @ dW  # (r, width) @ (width, n)
            dA.append(inner)
            dB += [_rows_times(dW @ EA_j.t(), gain, span)] if needs_B else []
            dE += [(inner * A_j).sum(1)] if E is not None else []
        through_A = _joined(dA).mul(self.scaling)
        to_B, to_E = (_joined(parts).mul(self.scaling) if parts else None for parts in (dB, dE))
        return through_A if E is None else through_A * E[:, None], to_B, to_E

    def to_B(self, h: Tensor, g: Tensor, E: Tensor | None, gain: Tensor | None) -> Tensor:
        """The gradient of B out of that of y."""
        parts = zip(self.scaled(h, E), self.of_columns(g), self.columns, strict=True)
        found = [_rows_times((h_j @ g_j).t(), gain, span) for h_j, g_j, span in parts]  # (r, t) @ (t, width)
        return _joined(found).mul(self.scaling)

    def to_heights(self, g: Tensor, B: Tensor, gain: Tensor | None) -> Tensor:
        """The gradient of x A^T diag(E) out of that of y, as rows (e r, t)."""
        parts = zip(self.cut(B, gain), self.of_columns(g), strict=True)
        return _joined([B_j.t().contiguous() @ g_j.t() for B_j, g_j in parts]).mul(self.scaling)


def _in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a precision; most have it, and `to` takes ten times as long to find that out."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts one below the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _heights(rows: Tensor, factors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """X A^T of every A, as rows (r, t), by one product."""
    found = _in(_joined(factors), dtype) @ _in(rows, dtype).t()  # (e r, n) @ (n, t)
    return list(found.split([len(A) for A in factors])) if len(factors) > 1 else [found]


def _or_zeros(d: Tensor | None, A: Tensor, inner: Tensor) -> Tensor:
    """The gradient of a layer's x A^T; zeros where the layer was not called, or its output not used."""
    return inner.new_zeros(len(A), inner.shape[1]) if d is None else d


def _rows_times(B: Tensor, gain: Tensor | None, span: tuple[int, int]) -> Tensor:
    """B (width, r) times the gain of its rows."""
    return B if gain is None else B * _in(gain[span[0] : span[1], None], B.dtype)


def _added(handed: Tensor | None, g: Tensor, W: Tensor) -> Tensor:
    """G W, added to what the layer after this one has handed back, in its place."""
    if handed is None:
        return g @ W  # (t, m) @ (m, n)
    handed = handed.reshape(-1, W.shape[1])
    if torch.is_grad_enabled() or handed.dtype != W.dtype:
        return handed + g @ W
    return handed.addmm_(g, W)


def _to_gain(g: Tensor, y: Tensor, b: Tensor | None, gain: Tensor) -> Tensor:
    """The gradient of the gain, out of y = gain u + b: the sum over rows of g u. A gain of 0 gets none."""
    wide = torch.promote_types(gain.dtype, torch.float32)
    found = torch.zeros_like(gain, dtype=wide)
    for g_i, y_i in zip(g.split(CHUNK), y.split(CHUNK), strict=True):
        u = y_i.to(wide) if b is None else y_i.to(wide) - b
        found += (u * g_i).sum(0)
    return torch.where(gain == 0, 0, found / gain).to(gain.dtype)
