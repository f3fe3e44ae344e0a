"""A step of SAID beside a step of full fine-tuning: the same encoder, the same batch, forward, backward and AdamW.

    python scripts/bench_said.py --model-path FOLDER   # an encoder; without it: MiniLM's shape, random weights

32 sequences of 128 tokens in float32. The sides take turns, round by round; figures are medians and, in brackets, the
least of all rounds: CPU time with one thread, which a busy machine disturbs less, else wall time. `projection alone` is
what SAID adds: all weights from theta, and theta's gradient from theirs.
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
from bench_peers import build_model
from torch import nn

from lrexp.layers.subspace import subspace_of
from lrexp.methods.base import Context, Decisions
from lrexp.methods.subspaces.intrinsic_dimension import IntrinsicDimension, IntrinsicDimensionHyperparameters
from lrexp.methods.subspaces.said import SAID, SAIDHyperparameters

BATCH, LENGTH, D_SMALL = 32, 128, 1000
GOAL = 1.5  # times a step of full fine-tuning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", help="folder of a BERT encoder (config.json, model.safetensors)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    context = Context(0, 1, torch.device("cpu"), torch.float32, head=("classifier",))
    full, said, one = (without_dropout(build_model(arguments.model_path)) for _ in range(3))
    begin = time.perf_counter()
    said = SAID(SAIDHyperparameters(D_SMALL)).prepare(said, Decisions(), context)
    drawn = time.perf_counter() - begin
    one = IntrinsicDimension(IntrinsicDimensionHyperparameters(D_SMALL)).prepare(one, Decisions(), context)
    sides = {
        "full": step(full),
        "said": step(said),
        "projection alone": projection(said),
        "intrinsic_dimension": step(one),
    }
    weights = sum(p.numel() for p in full.parameters())
    print(f"{weights} weights, d = {D_SMALL}, {arguments.threads} threads; SAID prepared in {drawn:.1f} s")
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(arguments.rounds + 1):
        for side, run in sides.items():
            began = clock()
            run()
            if turn:
                times[side].append(clock() - began)
    whole = statistics.median(times["full"]), min(times["full"])
    for side, seconds in times.items():
        middle, least = statistics.median(seconds), min(seconds)
        goal = f"; goal {GOAL}" if side == "said" else ""
        print(
            f"  {side:20} {middle:7.3f} s ({least:.3f})   "
            f"{middle / whole[0]:5.2f} ({least / whole[1]:.2f}) x full{goal}"
        )


def without_dropout(model: nn.Module) -> nn.Module:
    """In training mode, but both sides do the same work."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def step(model: nn.Module) -> Callable[[], None]:
    """Forward, backward and update on a fixed batch."""
    ids = torch.randint(1000, 20000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    return run


def projection(model: nn.Module) -> Callable[[], None]:
    """All weights from theta, and back from gradients that are these weights."""
    subspace = subspace_of(model)

    def run() -> None:
        with torch.no_grad():
            weights = subspace.map().weights(subspace.theta, subspace.lam)
            subspace.map().adjoint(subspace.theta, subspace.lam, weights)

    return run


if __name__ == "__main__":
    main()
