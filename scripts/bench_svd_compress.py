"""svd_compress: memory of a whole model's compression beside that of its hungriest layer alone, and time by whitening.

    python scripts/bench_svd_compress.py                                 # 4 blocks of width 256
    python scripts/bench_svd_compress.py --width 2048 --blocks 4 --device cuda

The model is a LLaMA with drawn weights (heads of 64, MLP 2.75 times as wide), the data random tokens. Memory is the
highest sum of tensor bytes above the model's while `prepare` runs: of all layers, and of one layer of each role alone.
Compressing layer by layer should need no more than the hungriest, since each is freed before the next. Times are
medians over rounds in which the three whitenings take turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator

import torch
from bench_peers import peak_allocated
from torch import Tensor, nn

from lrexp.engine import memory
from lrexp.linalg.random import ambient, generator
from lrexp.methods.base import Batch, Context
from lrexp.methods.compression.svd_compress import SVDCompress, SVDCompressHyperparameters

WHITENINGS = ("none", "asvd", "svd_llm")
ROLES = ("q", "k", "v", "o", "gate", "up", "down")
VOCABULARY = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="of a sequence; 8 sequences a batch, 4 batches")
    parser.add_argument("--keep-ratio", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.blocks} blocks of width {arguments.width} on {arguments.device}, keep_ratio {arguments.keep_ratio}"
    )
    for whitening in WHITENINGS:
        report_memory(arguments, whitening)
    report_time(arguments)


def report_memory(arguments: argparse.Namespace, whitening: str) -> None:
    whole = measured(arguments, whitening, ("attention", "mlp"))
    last = arguments.blocks - 1
    alone = {role: measured(arguments, whitening, (name(last, role),)) for role in ROLES}
    role = max(alone, key=lambda role: alone[role])
    print(
        f"  {whitening:<8} all {7 * arguments.blocks} layers {whole:8.1f} MiB above the model, "
        f"{role} alone {alone[role]:8.1f} MiB, ratio {whole / alone[role]:.3f}",
        flush=True,
    )


def report_time(arguments: argparse.Namespace) -> None:
    seconds: dict[str, list[float]] = {whitening: [] for whitening in WHITENINGS}
    for turn in range(arguments.rounds):
        for whitening in WHITENINGS[turn % 3 :] + WHITENINGS[: turn % 3]:
            model, context = built(arguments)
            memory.synchronize(context.device)
            began = time.perf_counter()
            compress(model, context, arguments, whitening, ("attention", "mlp"))
            memory.synchronize(context.device)
            seconds[whitening].append(time.perf_counter() - began)
    base = statistics.median(seconds["none"])
    for whitening, found in seconds.items():
        median = statistics.median(found)
        print(f"  {whitening:<8} {median:8.2f} s for the model ({median / base:.2f} of plain)", flush=True)


def measured(arguments: argparse.Namespace, whitening: str, targets: tuple[str, ...]) -> float:
    """MiB at the highest point of `prepare`, above what the model and its data take before it."""
    if arguments.device == "cuda":
        model, context = built(arguments)
        memory.reset(context.device)
        before = torch.cuda.memory_allocated()
        compress(model, context, arguments, whitening, targets)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    from torch.profiler import ProfilerActivity, profile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            model, context = built(arguments)  # within: the profiler sees only what it saw made go
            before = sum(p.nbytes for p in model.parameters())
            compress(model, context, arguments, whitening, targets)
    return (peak_allocated(profiler) - before) / 2**20


def compress(
    model: nn.Module, context: Context, arguments: argparse.Namespace, whitening: str, targets: tuple[str, ...]
) -> None:
    values = SVDCompressHyperparameters(
        keep_ratio=arguments.keep_ratio, whitening=whitening, target_modules=targets,  # type: ignore[arg-type]
        calibration_batches=4, calibration_size=8,
    )  # fmt: skip
    method = SVDCompress(values)
    method.prepare(model, method.decide(model, context), context)


def built(arguments: argparse.Namespace) -> tuple[nn.Module, Context]:
    from transformers import LlamaConfig, LlamaForCausalLM

    width = arguments.width
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=int(2.75 * width),
        num_hidden_layers=arguments.blocks, num_attention_heads=max(1, width // 64),
    )  # fmt: skip
    device = torch.device(arguments.device)
    with ambient(0):
        model = LlamaForCausalLM(config).to(device)

    def calibration(name: str, count: int, size: int) -> Iterator[Batch]:
        for i in range(count):
            draw = generator(0, name, i)
            yield {"input_ids": torch.randint(0, VOCABULARY, (size, arguments.tokens), generator=draw).to(device)}

    def task_loss(model: nn.Module, batch: Batch) -> Tensor:
        return model(**batch, use_cache=False).logits.sum()

    return model, Context(0, 0, device, torch.float32, task_loss=task_loss, calibration=calibration)


def name(block: int, role: str) -> str:
    return f"layers.{block}.{'self_attn' if role in ('q', 'k', 'v', 'o') else 'mlp'}.{role}_proj"


if __name__ == "__main__":
    main()
