"""lrexp's GaLore beside galore-torch: a step with its refresh spread over 200, the refresh, its quality, the state.

    python scripts/bench_galore.py                   # all parts, one torch thread, some minutes
    python scripts/bench_galore.py --only step       # one of step, refresh, state

A step is project, Adam, lift on one weight with a given gradient, in float32. The peer is galore-torch where it is
installed (its AdamW alone is imported, which needs no bitsandbytes), else its algorithm written out below. The floor is
the two matrix products of a step, project and lift, and nothing else. Variants take turns; figures are medians.
Gradients for the refresh are those of LLaMA blocks with drawn weights after a few steps of AdamW on the standard
library's text: once 512 wide, and one block 2048 wide.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import statistics
import sys
import sysconfig
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.engine.result import optimizer_bytes
from lrexp.linalg.random import generator
from lrexp.methods.base import Context, Decisions
from lrexp.methods.gradients.galore import GaLore, GaLoreHyperparameters
from lrexp.optim.build import make_optimizer
from lrexp.optim.group import Group
from lrexp.optim.projected import Projected
from lrexp.optim.projector import Basis, Kept, SubspaceProjector

GAP, SCALE, RATE = 200, 0.25, 0.01
STEPS = (((512, 1376), 128), ((2048, 5461), 512))  # shapes (out, in) and ranks
TOKENIZER = Path(__file__).parents[1] / "lrexp" / "models" / "tokenizer" / "tokenizer.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("step", "refresh", "state"), help="one part alone")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s)")
    if arguments.only in (None, "step"):
        for shape, rank in STEPS:
            report_step(shape, rank, arguments.rounds)
    if arguments.only in (None, "refresh"):
        report_refresh("512 wide, 4 blocks", 512, 1376, 8, 4, (128,), False)
        report_refresh("2048 wide, 1 block", 2048, 5461, 32, 1, (128, 256, 512), True)
    if arguments.only in (None, "state"):
        report_state()


def timed_both(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of wall and of CPU time: a busy machine disturbs the second less."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def basis(svd: Any = "subspace") -> Basis:
    values = GaLoreHyperparameters()
    draw = partial(generator, 0, "bench")
    return Basis(svd, values.svd_niter, values.svd_oversampling, "canonical", draw)


class WrittenOut(torch.optim.Optimizer):
    """The official step for one weight and std, as the card of the method has it: SVD, project, Adam, back, add."""

    def __init__(self, weight: nn.Parameter, rank: int) -> None:
        super().__init__([weight], {"lr": RATE})
        self.rank, self.t = rank, 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        (weight,) = self.param_groups[0]["params"]
        G, state = weight.grad, self.state[weight]
        is_tall = G.shape[0] >= G.shape[1]
        if self.t % GAP == 0:
            U, _, Vh = torch.linalg.svd(G.float(), full_matrices=False)
            state["P"] = Vh[: self.rank] if is_tall else U[:, : self.rank]
        R = G @ state["P"].T if is_tall else state["P"].T @ G
        M, V = (state.setdefault(name, torch.zeros_like(R)) for name in ("M", "V"))
        self.t += 1
        M.mul_(0.9).add_(R, alpha=0.1)
        V.mul_(0.999).addcmul_(R, R, value=0.001)
        N = M / V.sqrt().add_(1e-6)
        N = SCALE * (N @ state["P"] if is_tall else state["P"] @ N)
        weight.add_(N, alpha=-RATE * math.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t))


def peer(weight: nn.Parameter, rank: int) -> tuple[str, torch.optim.Optimizer]:
    """galore-torch's AdamW on the weight, and what it is."""
    if "galore_torch" not in sys.modules:
        found = importlib.util.find_spec("galore_torch")
        if found is None:
            return "its algorithm written out", WrittenOut(weight, rank)
        package = types.ModuleType("galore_torch")  # without the package's own imports: they want bitsandbytes
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["galore_torch"] = package
    cls = importlib.import_module("galore_torch.adamw").AdamW
    group = {"params": [weight], "rank": rank, "update_proj_gap": GAP, "scale": SCALE, "proj_type": "std"}
    return "galore-torch", cls([group], lr=RATE, no_deprecation_warning=True)


def ours(weight: nn.Parameter, rank: int, name: str) -> Projected:
    projector = SubspaceProjector(tuple(weight.shape), rank, GAP, SCALE, "std", basis())
    return Projected([Group({"W": weight})], make_optimizer({"name": name}, RATE), {"W": projector})


def report_step(shape: tuple[int, int], rank: int, rounds: int) -> None:
    G = torch.randn(shape, generator=generator(0, "gradient"))
    weights = [nn.Parameter(torch.zeros(shape)) for _ in range(3)]
    for weight in weights:
        weight.grad = G.clone()
    label, theirs = peer(weights[0], rank)
    variants = {label: theirs, "ours, adamw_hf": ours(weights[1], rank, "adamw_hf")}
    variants["ours, adamw"] = ours(weights[2], rank, "adamw")
    first = {name: timed_both(variant.step) for name, variant in variants.items()}  # each one's first refresh is in it
    W, P = torch.zeros(shape), torch.linalg.qr(torch.randn(shape[0], rank, generator=generator(0, "P"))).Q
    calls: dict[str, Callable[[], Any]] = {name: variant.step for name, variant in variants.items()}
    calls["floor: two products alone"] = lambda: W.addmm_(P, P.T @ G, alpha=-RATE)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody always follows the same one
            times[name].append(timed_both(calls[name]))
    print(f"\nstep of {shape[0]}x{shape[1]}, r {rank}, refresh over {GAP} steps; wall time, then CPU time")
    for name in names:
        shown = []
        for clock in range(2):
            plain = {n: statistics.median(t[clock] for t in times[n]) for n in (name, label)}
            whole = {n: t + max(0.0, first.get(n, (t, t))[clock] - t) / GAP for n, t in plain.items()}
            shown.append(f"{1e3 * whole[name]:8.2f} ms  {whole[name] / whole[label]:.2f} of theirs")
        refreshed = f"   first step {1e3 * first[name][0]:.0f} ms" if name in first else ""
        print(f"  {name:<26} {'   '.join(shown)}{refreshed}")


def gradients(width: int, ffn: int, heads: int, blocks: int) -> list[dict[str, Tensor]]:
    """Gradients of the matrices of the middle block at three steps of a training from drawn weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    text = "".join(source.read_text(encoding="utf-8", errors="ignore") for source in sources)
    ids = torch.tensor(PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER))(text)["input_ids"])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048, hidden_size=width, intermediate_size=ffn, num_hidden_layers=blocks,
            num_attention_heads=heads, max_position_embeddings=256,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3 if width < 1024 else 3e-4, fused=True)
    kept, middle, steps = [], f"layers.{blocks // 2}.", 13 if width < 1024 else 3
    for step in range(steps):
        starts = torch.randint(0, len(ids) - 256, (8,), generator=generator(0, "batch", step))
        batch = torch.stack([ids[at : at + 256] for at in starts.tolist()])
        model(input_ids=batch, labels=batch).loss.backward()
        if step in (0, steps // 2, steps - 1):
            kept.append({n: p.grad for n, p in model.named_parameters() if middle in n and p.ndim == 2})
        optimizer.step()
        optimizer.zero_grad()
    return kept  # type: ignore[return-value]


def energies(G: Tensor) -> Tensor:
    """The squared singular values, descending: what an exact projector of rank r captures is the sum of r of them."""
    wide = (G if G.shape[0] <= G.shape[1] else G.T).double()
    return torch.linalg.eigvalsh(wide @ wide.T).flip(0)


def report_refresh(title: str, width: int, ffn: int, heads: int, blocks: int, ranks: Any, is_timed: bool) -> None:
    """Energy of the production refresh over the exact one's, cold and then from the last projector; and its time."""
    moments = gradients(width, ffn, heads, blocks)
    best = [{name: energies(G) for name, G in at.items()} for at in moments]
    for rank in ranks:
        ratios: list[list[float]] = [[] for _ in moments]
        for name in moments[0]:
            kept: Kept = {}
            projector = SubspaceProjector(tuple(moments[0][name].shape), rank, 1, SCALE, "std", basis())
            for step, at in enumerate(moments):
                projector.refresh(kept, at[name], step)
                held = torch.linalg.vector_norm(projector.project(kept, at[name])) ** 2
                ratios[step].append(float(held / best[step][name][:rank].sum()))
        shown = "   ".join(f"{min(r):.4f} to {max(r):.4f}" for r in ratios)
        print(f"\ncaptured energy over the exact projector's, {title}, r {rank}, at three steps:\n  {shown}")
    if is_timed:
        report_refresh_time([at["model.layers.0.self_attn.q_proj.weight"] for at in moments], ranks)


def report_refresh_time(matrices: list[Tensor], ranks: tuple[int, ...]) -> None:
    """A refresh at the last of the matrices from the projector of the one before, beside a full SVD."""
    m, n = matrices[-1].shape
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(3):
        full = timed_both(lambda: torch.linalg.svd(matrices[-1], full_matrices=False))
        times.setdefault("full SVD", []).append(full)
        for rank in ranks:
            projector = SubspaceProjector((m, n), rank, 1, SCALE, "std", basis())
            kept: Kept = {}
            cold = timed_both(partial(projector.refresh, kept, matrices[0], 0))
            warm = [timed_both(partial(projector.refresh, dict(kept), matrices[-1], 1)) for _ in range(3)]
            times.setdefault(f"refresh, r {rank}, first", []).append(cold)
            times.setdefault(f"refresh, r {rank}, later", []).extend(warm)
    print(f"\nrefresh at {m}x{n}; wall time, then CPU time")
    medians = {name: [statistics.median(t[clock] for t in held) for clock in range(2)] for name, held in times.items()}
    for name, both in medians.items():
        parts = zip(both, medians["full SVD"], strict=True)
        shown = [f"{1e3 * t:8.1f} ms  1/{full / t:.1f} of the full SVD" for t, full in parts]
        print(f"  {name:<26} {'   '.join(shown)}")


def report_state() -> None:
    """Bytes that the optimizer holds for the projected weights of LLaMA 60M beside the formula, and Adam's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
    )
    for dtype in (torch.float32, torch.bfloat16):
        model = LlamaForCausalLM(config).to(dtype)
        method = GaLore(GaLoreHyperparameters(rank=128, svd_niter=1))
        method.prepare(model, Decisions(), Context(0, 1, torch.device("cpu"), dtype))
        optimizer = method.build_optimizer(method.parameter_groups(model), make_optimizer({"name": "adamw_hf"}, RATE))
        formula = adam = 0
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator(0, name)).to(dtype)
            adam += 2 * p.numel() * p.element_size()
            is_target = name in method.targets
            entries = 128 * (min(p.shape) + 2 * max(p.shape)) if is_target else 2 * p.numel()
            formula += entries * p.element_size()
        optimizer.step()
        held = optimizer_bytes(optimizer)
        print(
            f"\nstate of LLaMA 60M, r 128, {dtype}: {held} bytes held, {formula} by the formula "
            f"({held / 2**30:.3f} GiB); AdamW {adam / 2**30:.3f} GiB"
        )


if __name__ == "__main__":
    main()
