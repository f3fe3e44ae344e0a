"""The Walsh-Hadamard transform and Fastfood beside a memory copy of the same size and a plain loop of butterflies.

    python scripts/bench_hadamard.py              # 2^20 float32 numbers, one thread
    python scripts/bench_hadamard.py --bits 18 24 --device cuda

All sides take turns, round by round; figures are medians and, in brackets, the least of all rounds: CPU time with one
thread, which a busy machine disturbs less, else wall time. Ratios are to the copy. The buffers of 2^20 numbers lie in
the cache of a server's CPU: the copy runs at the speed of that cache. `pass` is one matrix product of the transform.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lrexp.linalg.fastfood import Fastfood, draw_pieces
from lrexp.linalg.fastfood import length as fastfood_length
from lrexp.linalg.hadamard import RADIX_BITS, hadamard_transform, transform_

REPEATS = 3  # of which the last counts
D_SMALL = 1000  # coordinates of the subspace
GOALS = {"transform": 20.0, "Fastfood P theta": 60.0}  # times the copy, at 2^20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[20])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for bits in arguments.bits:
        report(bits, arguments.rounds, torch.device(arguments.device))


def butterflies(x: Tensor) -> Tensor:
    """The plain loop: log2(L) levels of sums and differences, put together anew."""
    stride = 1
    while stride < x.numel():
        old = x.view(-1, 2, stride)
        x, stride = torch.stack([old[:, 0] + old[:, 1], old[:, 0] - old[:, 1]], dim=1).view(-1), 2 * stride
    return x


def butterflies_in_buffers(x: Tensor) -> Tensor:
    """The same levels written from one buffer into another."""
    x, spare, stride = x.clone(), torch.empty_like(x), 1
    while stride < x.numel():
        old, new = x.view(-1, 2, stride), spare.view(-1, 2, stride)
        torch.add(old[:, 0], old[:, 1], out=new[:, 0])
        torch.sub(old[:, 0], old[:, 1], out=new[:, 1])
        x, spare, stride = spare, x, 2 * stride
    return x


def report(bits: int, rounds: int, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    L, r = 2**bits, 2**RADIX_BITS
    x = torch.randn(L, generator=generator).to(device)
    into = torch.empty_like(x)
    theta = torch.randn(D_SMALL, generator=generator).to(device)
    fastfood = Fastfood.of([draw_pieces(L, D_SMALL, generator)], D_SMALL).to(device)
    padded, work = x[: fastfood_length(D_SMALL)].clone(), torch.zeros_like(x)  # repeated transforms would overflow
    H = hadamard_transform(torch.eye(r, device=device))
    sides: dict[str, Callable[[], object]] = {
        "copy": lambda: into.copy_(x),
        "pass": lambda: torch.mm(H, x.view(-1, r).mT, out=into.view(r, -1)),
        "transform": lambda: transform_(work),
        "transform of a copy": lambda: hadamard_transform(x),
        "butterflies": lambda: butterflies(x),
        "same, two buffers": lambda: butterflies_in_buffers(x),
        "gather": lambda: padded.index_select(0, fastfood.index),
        "Fastfood P theta": lambda: fastfood.apply(theta),
        "Fastfood P^T g": lambda: fastfood.adjoint([x]),
    }
    worst = (hadamard_transform(x) - butterflies(x)).abs().max() / butterflies(x).abs().max()
    print(f"2^{bits} float32 on {device}, {torch.get_num_threads()} threads; both transforms agree to {worst:.1e}")
    clock = time.perf_counter if device.type == "cuda" or torch.get_num_threads() > 1 else time.thread_time
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 2):
        for side, run in sides.items():
            for _ in range(REPEATS):  # the first brings its buffers into the cache
                synchronize(device)
                begin = clock()
                run()
                synchronize(device)
                seconds = clock() - begin
            if turn >= 2:
                times[side].append(seconds)
    copy = statistics.median(times["copy"]), min(times["copy"])
    for side, seconds in times.items():
        middle, least = statistics.median(seconds), min(seconds)
        goal = f"; goal {GOALS[side]:.0f}" if side in GOALS and bits == 20 else ""
        print(
            f"  {side:19} {1e3 * middle:9.3f} ms ({1e3 * least:.3f})   "
            f"{middle / copy[0]:6.1f} ({least / copy[1]:.1f}) x copy{goal}"
        )
    ours, plain = (min(times[side]) for side in ("transform", "butterflies"))
    print(f"  transform over butterflies: {ours / plain:.2f} (goal 0.25)")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
