"""One SLTrain layer, forward and backward: lrexp's operation and the authors' algorithm side by side.

    python scripts/bench_sltrain.py                                   # LLaMA's shapes, one thread, float32
    python scripts/bench_sltrain.py --shapes 512x1376:128 --tokens 4096 --dtype bfloat16

The authors' algorithm (their C++ extension, written here in the same torch operations) builds the dense weight in the
forward pass and again in the backward pass, and there the dense gradient of the weight too. Both sides have the same
inputs, factors, values and support and take turns in one process; times are medians of one forward and backward pass.
Memory is the highest sum of tensor bytes above what exists before the pass (inputs and parameters), as torch's profiler
counts allocations: with the results (output and gradients, which both sides return), and without them. The largest
difference of any result to the authors' is printed, relative to that result's largest entry: it must be rounding alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_peers import peak_allocated
from torch import Tensor
from torch.nn import functional as F

from lrexp.layers.sparse_low_rank_function import is_direct, sparse_low_rank
from lrexp.linalg.random import generator
from lrexp.linalg.sparse import draw_support

SHAPES = ["512x1376:128", "1376x512:128", "512x512:128", "1024x2736:256", "2736x1024:256", "2048x5461:512"]
SP_RATIO = 0.03


class Official(torch.autograd.Function):
    """The authors' forward and backward pass, in the order of their operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, B: Tensor, sA: Tensor, v: Tensor, support: Tensor) -> Tensor:
        ctx.save_for_backward(x, B, sA, v, support)
        W = B.mm(sA)
        W.view(-1).scatter_add_(0, support, v)
        return F.linear(x, W)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, B, sA, v, support = ctx.saved_tensors
        W = B.mm(sA)
        W.view(-1).scatter_add_(0, support, v)
        dx = g.mm(W)
        G = g.t().mm(x)
        return dx, G.mm(sA.t()), B.t().mm(G), G.view(-1).gather(0, support), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="OUTxIN:RANK")
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 4096])
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread, {arguments.dtype}, sp_ratio {SP_RATIO}")
    print("out x in : rank, tokens | way | ms official, ours, ratio | MB the same | without results | difference")
    for shape in arguments.shapes:
        for tokens in arguments.tokens:
            compare(shape, tokens, getattr(torch, arguments.dtype), arguments.rounds)


def compare(shape: str, tokens: int, dtype: torch.dtype, rounds: int) -> None:
    sizes, _, rank = shape.partition(":")
    m, n = map(int, sizes.split("x"))
    r, s = int(rank), 0.25
    draw = generator(0, shape)
    nnz = int(SP_RATIO * m * n)
    A, B = torch.randn(r, n, generator=draw).to(dtype), torch.randn(m, r, generator=draw).to(dtype)
    v, x, g = (torch.randn(size, generator=draw).to(dtype) for size in ((nnz,), (tokens, n), (tokens, m)))
    leaves = [t.requires_grad_() for t in (x, A, B, v)]
    support = draw_support(m * n, nnz, draw)
    wide = support.long()  # theirs is int64

    def official() -> list[Tensor]:
        y = Official.apply(x, B, A * s, v, wide)
        return [y.detach(), *torch.autograd.grad(y, leaves, g)]

    def ours() -> list[Tensor]:
        y = sparse_low_rank(x, A, B, v, support, None, s)
        return [y.detach(), *torch.autograd.grad(y, leaves, g)]

    pairs = list(zip(official(), ours(), strict=True))
    difference = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    del pairs
    times: dict[Callable[[], list[Tensor]], list[float]] = {official: [], ours: []}
    for _ in range(rounds):
        for side, taken in times.items():
            begin = time.perf_counter()
            side()
            taken.append(time.perf_counter() - begin)
    (t0, t1) = (statistics.median(taken) * 1e3 for taken in times.values())
    p0, p1 = (peak_of(side) / 1e6 for side in times)
    results = sum(t.nbytes for t in (x, A, B, v, g))  # of their gradients and of y
    q0, q1 = p0 - results / 1e6, p1 - results / 1e6
    way = "direct" if is_direct(x, (m, n), r, nnz) else "formed"
    print(
        f"{shape}, {tokens} | {way} | {t0:.1f}, {t1:.1f}, {t1 / t0:.2f} | {p0:.1f}, {p1:.1f}, {p1 / p0:.2f} | "
        f"{q0:.1f}, {q1:.1f}, {q1 / q0:.2f} | "
        f"{difference:.1e}",
        flush=True,
    )


def peak_of(side: Callable[[], list[Tensor]]) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        side()
    return peak_allocated(profiler)


if __name__ == "__main__":
    main()
