"""lrexp's adapters beside PEFT's and beside the authors' dense forms: steps, memory, preparation.

    python scripts/bench_adapters.py --model FOLDER        # all parts, one torch thread, many minutes
    python scripts/bench_adapters.py --part step --methods lora dora --subject minilm --rounds 30

step: (ours - floor) / (PEFT's - floor), where the floor is the same step without an adapter, gradients flowing back as
far. A step is forward and backward pass, all that the method does around them (DoRA's norms, AdaLoRA's penalty,
statistics and choices) and AdamW, the same fused one on all sides; the last ratio leaves AdamW out. Sides take turns in
one process, and the figure is the ratio of medians of paired differences, with the interval that 90 % of resampled
rounds fall into; beside it the ratio of the lowest times, which other load can only raise. AdaLoRA chooses triplets in
every tenth step, so a median step does not: --delta-t 1 has a choice in each.
memory: the most tensor bytes within a step above the base model's own: activations, gradients, and what the method and
AdamW keep; on a CPU as torch's profiler counts them, on CUDA as the allocator does.
dense: SVFit, LoLDU and SORSA on one layer beside the dense forms of `bench_adapter_forms.py`, checked to be equal.
prepare: OLoRA's preparation beside PEFT's, PiSSA's randomized beside its exact one, a second exact one from the cache.

Subjects: an encoder (all-MiniLM-L6-v2 from --model, else its shape with drawn weights) on 32 x 64 tokens, and one LLaMA
block 2048 wide; adapters of rank 8 on every linear layer, float32.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import copy
import gc
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from adapter_sides import METHODS, SIDES, SUBJECTS, Setting, Subject, build, context_of, method_of, wrapped_by_peft
from bench_adapter_forms import report_dense

PARTS = ("step", "memory", "dense", "prepare")
GOALS = {"lora": 0.5, "pissa": 0.5, "olora": 0.5, "eva": 0.5, "dora": 0.4, "adalora": 0.6}
MEMORY_GOALS = {"dora": 0.8}
RESAMPLED = 1000
MARK = "measured step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--methods", nargs="+", help=f"of {', '.join(METHODS)}; of dense: svfit, loldu, sorsa")
    parser.add_argument("--subject", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--model", help="folder of a BERT encoder (config.json, model.safetensors)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=512, help="of the LLaMA block")
    parser.add_argument("--delta-t", type=int, default=10, help="AdaLoRA: steps from one choice to the next")
    parser.add_argument("--ranks", nargs="+", default=["8", "128", "all"], help="of the dense forms")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--clock", choices=("cpu", "wall"), help="default: cpu, disturbed less by other load; CUDA: wall"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    on_cpu = arguments.device == "cpu"
    setting = Setting(
        torch.device(arguments.device), on_cpu and arguments.clock != "wall", arguments.model, arguments.tokens,
        arguments.delta_t,
    )  # fmt: skip
    clock = "CPU" if setting.cpu_time else "wall"
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s), {clock} time", flush=True)
    chosen = [name for name in METHODS if name in (arguments.methods or METHODS)]
    for subject in arguments.subject:
        if "step" in arguments.part:
            report_steps(subject, chosen, setting, arguments.rounds)
        if "memory" in arguments.part:
            report_memory(subject, chosen, setting)
        if "prepare" in arguments.part:
            report_preparation(subject, setting, min(arguments.rounds, 5 if subject == "minilm" else 3))
    if "dense" in arguments.part:
        report_dense(setting, arguments.methods, arguments.ranks, arguments.rounds)


def report_steps(subject: str, methods: list[str], setting: Setting, rounds: int) -> None:
    print(f"\nstep, {SUBJECTS[subject](setting).title}, {rounds} rounds; milliseconds are medians")
    print("method  | floor, ours, PEFT ms | over the floor: ours, PEFT ms | ratio [90 %] (goal)", end=" ")
    print("| of the lowest | without AdamW")
    for name in methods:
        sides = {side: build(side, name, SUBJECTS[subject](setting), setting) for side in SIDES}
        losses = {side: each.step()[2] for side, each in sides.items()}  # and once more, to warm up
        for each in sides.values():
            each.step()
        if name != "adalora" and max(losses.values()) - min(losses.values()) > 1e-3:  # its penalty is in PEFT's loss
            raise SystemExit(f"{name}: the sides start from other functions, their losses are {losses}")
        if sides["ours"].trained() != sides["peft"].trained():
            raise SystemExit(f"{name}: the sides train different numbers of parameters")
        whole: dict[str, list[float]] = {side: [] for side in SIDES}
        passes: dict[str, list[float]] = {side: [] for side in SIDES}
        for turn in range(rounds):
            for side in SIDES[turn % 3 :] + SIDES[: turn % 3]:
                spent, updating, _ = sides[side].step()
                whole[side].append(spent * 1e3)
                passes[side].append((spent - updating) * 1e3)
        floor, ours, peft = (statistics.median(whole[side]) for side in SIDES)
        low, high = interval(whole)
        over = over_floor(whole, range(rounds))
        lowest = {side: [min(taken)] for side, taken in whole.items()}
        print(
            f"{name:7} | {floor:.1f}, {ours:.1f}, {peft:.1f} | {over[0]:.1f}, {over[1]:.1f} | "
            f"{over[0] / over[1]:.2f} [{low:.2f}, {high:.2f}] ({GOALS[name]:.1f}) | {ratio(lowest, [0]):.2f} | "
            f"{ratio(passes, range(rounds)):.2f}",
            flush=True,
        )


def over_floor(times: dict[str, list[float]], rounds: Any) -> tuple[float, float]:
    """Medians of (ours - floor) and (PEFT's - floor) over these rounds."""
    floor, ours, peft = (times[side] for side in SIDES)
    return (
        statistics.median([ours[i] - floor[i] for i in rounds]),
        statistics.median([peft[i] - floor[i] for i in rounds]),
    )


def ratio(times: dict[str, list[float]], rounds: Any) -> float:
    ours, peft = over_floor(times, rounds)
    return ours / peft if peft > 0 else float("nan")


def interval(times: dict[str, list[float]]) -> tuple[float, float]:
    """Bounds that 90 % of the ratios of resampled rounds lie between."""
    draw, count = random.Random(0), len(times["ours"])
    found = sorted(ratio(times, [draw.randrange(count) for _ in range(count)]) for _ in range(RESAMPLED))
    return found[RESAMPLED // 20], found[-RESAMPLED // 20]


def report_memory(subject: str, methods: list[str], setting: Setting) -> None:
    print(f"\nmemory, {SUBJECTS[subject](setting).title}; MiB above the base model, in brackets those between steps")
    print("method  | floor | ours | PEFT | ours / PEFT (goal)")
    floor = measured_memory("floor", "lora", SUBJECTS[subject](setting), setting)
    for name in methods:
        ours, peft = (measured_memory(side, name, SUBJECTS[subject](setting), setting) for side in ("ours", "peft"))
        figures = " | ".join(f"{peak / 2**20:.1f} [{kept / 2**20:.1f}]" for peak, kept in (floor, ours, peft))
        print(f"{name:7} | {figures} | {ours[0] / peft[0]:.2f} ({MEMORY_GOALS.get(name, 1.0):.1f})", flush=True)


def measured_memory(side: str, name: str, subject: Subject, setting: Setting) -> tuple[int, int]:
    """Bytes above those of the subject: the most within the third step, and those that stay between steps."""
    gc.collect()
    if setting.device.type == "cuda":
        own = torch.cuda.memory_allocated(setting.device)
        built = build(side, name, subject, setting)
        for _ in range(2):
            built.step()
        gc.collect()
        kept = torch.cuda.memory_allocated(setting.device) - own
        torch.cuda.reset_peak_memory_stats(setting.device)
        built.step()
        return torch.cuda.max_memory_allocated(setting.device) - own, kept
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        built = build(side, name, subject, setting)
        for _ in range(2):
            built.step()
        gc.collect()
        with torch.profiler.record_function(MARK):
            built.step()
    return peak_from_mark(profiler)


def peak_from_mark(profiler: torch.profiler.profile) -> tuple[int, int]:
    """The highest sum of tensor bytes since the profile began, after the mark, and the sum at the mark."""
    events: list[Any] = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    mark = min(e.start_ns() for e in events if e.name() == MARK)
    moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    level = peak = kept = 0
    for at, change in moves:
        level += change
        if at < mark:
            kept = peak = level
        peak = max(peak, level)
    return peak, kept


def report_preparation(subject: str, setting: Setting, rounds: int) -> None:
    base = SUBJECTS[subject](setting)
    print(f"\npreparation, {base.title}, {rounds} rounds; milliseconds are medians, of a copy in memory")

    def prepare(name: str, cache: Path | None = None, **more: Any) -> Callable[[Subject], object]:
        def run(subject: Subject) -> object:
            method, context = method_of(name, **more), context_of(subject, setting, cache)
            return method.prepare(subject.model, method.bound(subject.model), context)

        return run

    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[Subject], object]] = {
            "OLoRA, ours": prepare("olora"),
            "OLoRA, PEFT": lambda subject: wrapped_by_peft("olora", subject, 10),
            "PiSSA, randomized": prepare("pissa", svd="randomized"),
            "PiSSA, exact": prepare("pissa"),
            "PiSSA, second": prepare("pissa", Path(folder)),
        }
        first = timed(ways["PiSSA, second"], base, setting)  # fills the cache
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                spent[way].append(timed(run, base, setting))
    ms = {way: statistics.median(taken) * 1e3 for way, taken in spent.items()}
    print("what | ms | ratio (goal)")
    for title, one, other, goal in (
        ("OLoRA, ours / PEFT", "OLoRA, ours", "OLoRA, PEFT", 0.2),
        ("PiSSA, randomized / exact", "PiSSA, randomized", "PiSSA, exact", 0.1),
    ):
        print(f"{title} | {ms[one]:.1f}, {ms[other]:.1f} | {ms[one] / ms[other]:.3f} ({goal})")
    second = ms["PiSSA, second"]
    print(
        f"PiSSA, second / first start | {second:.1f}, {first * 1e3:.1f} | {second / first / 1e3:.3f} (0.05)", flush=True
    )


def timed(run: Callable[[Subject], object], base: Subject, setting: Setting) -> float:
    subject = Subject(base.title, copy.deepcopy(base.model), base.batch, base.head, base.task_type)
    began = setting.now()
    run(subject)
    return setting.now() - began


if __name__ == "__main__":
    main()
