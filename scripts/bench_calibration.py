"""Preparation of EVA and LoRA-GA beside PEFT's: time, peak memory, and whether the factors span the same spaces.

    python scripts/bench_calibration.py --model-path FOLDER --data TRAIN.parquet

FOLDER holds a BERT encoder, the parquet file has columns sentence1, sentence2 and label (MRPC). Every linear layer of
the encoder, rank 8, float32, the same batches in the same order on both sides: EVA's of 16 items until each side is
settled, LoRA-GA's 8 of one item. Sides take turns, round by round; figures are medians. Memory is measured with one
process per side: the growth of the resident set, and of tensors alone. Spaces are compared by principal angles: with
the other side's, and with the exact ones of all batches.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from bench_peers import build_model, peak_allocated
from torch import Tensor, nn

from lrexp.linalg.random import ambient

RANK, BATCHES, SIZE, LENGTH, SAMPLES = 8, 64, 16, 128, 8
OURS, PEFT = "ours", "peft"
TARGETS = ("attention", "mlp")
PEFT_TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
TIME, MEMORY = 0.5, 0.7  # targets, ours / PEFT

Factors = dict[str, tuple[Tensor, Tensor]]  # A (r, n) and B (m, r) by layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("eva", "lora_ga"))
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    model, batches = load(arguments.model_path, arguments.data)
    if arguments.memory_of:
        method, side = arguments.memory_of
        print(json.dumps(measure_memory(method, side, model, batches[method])))
        return
    for method in (arguments.only,) if arguments.only else ("eva", "lora_ga"):
        found = report_time(method, model, batches[method], arguments.rounds)
        report_memory(method)
        {"eva": compare_eva, "lora_ga": compare_lora_ga}[method](model, batches[method], found)


def load(model_path: str, data: str) -> tuple[nn.Module, dict[str, list[dict[str, Tensor]]]]:
    """The classifier without dropout, and calibration batches by method."""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    with ambient(0):
        model = build_model(model_path)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    table = pq.read_table(data).to_pylist()
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(1)).tolist()

    def batch(i: int, size: int, labels: bool) -> dict[str, Tensor]:
        rows = [table[j] for j in order[i * size : (i + 1) * size]]
        pairs = [row["sentence1"] for row in rows], [row["sentence2"] for row in rows]
        found = dict(tokenizer(*pairs, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"))
        return found | ({"labels": torch.tensor([row["label"] for row in rows])} if labels else {})

    return model, {
        "eva": [batch(i, SIZE, False) for i in range(BATCHES)],
        "lora_ga": [batch(i, 1, True) for i in range(SAMPLES)],
    }


def prepare(method: str, side: str, model: nn.Module, batches: list[dict[str, Tensor]]) -> Factors:
    """Puts the adapter into the model and gives its start."""
    if side == PEFT:
        return prepare_peft(method, model, batches)
    from lrexp.layers.adapted import adapted_layers
    from lrexp.layers.lora_layer import LoRALayer
    from lrexp.methods import catalog
    from lrexp.methods.base import Context

    def calibration(name: str, count: int, size: int) -> Iterator[dict[str, Tensor]]:
        return iter(batches)

    def task_loss(model: nn.Module, batch: Any) -> Tensor:
        return model(**batch).loss if "labels" in batch else model(**batch).logits.sum()

    cls = catalog.load(method)
    life = cls(cls.Hyperparameters(r=RANK, target_modules=TARGETS))
    context = Context(
        0, 1, torch.device("cpu"), torch.float32, ("classifier",), task_loss=task_loss, calibration=calibration
    )
    life.prepare(model, life.decide(model, context), context)
    layers = adapted_layers(model)
    print(f"    ours: {life.metrics()}", file=sys.stderr)
    return {n: (x.lora_A.detach(), x.lora_B.detach()) for n, x in layers.items() if isinstance(x, LoRALayer)}


def prepare_peft(method: str, model: nn.Module, batches: list[dict[str, Tensor]]) -> Factors:
    from peft import EvaConfig, LoraConfig, LoraGAConfig, get_peft_model, initialize_lora_eva_weights
    from peft.tuners.lora.loraga import preprocess_loraga

    settings: dict[str, Any] = {"r": RANK, "lora_alpha": 16, "target_modules": PEFT_TARGETS}
    if method == "eva":
        config = LoraConfig("SEQ_CLS", init_lora_weights="eva", eva_config=EvaConfig(rho=2.0, tau=0.99), **settings)
        adapted: Any = get_peft_model(model, config)
        seen = Counted(batches)
        initialize_lora_eva_weights(adapted, seen, show_progress_bar=False)
        print(f"    PEFT: {seen.given - 2} batches", file=sys.stderr)  # one to look for equal inputs, one unused
    else:
        ga = LoraGAConfig(direction="ArB2r", scale="stable", stable_gamma=16)
        settings |= {"init_lora_weights": "lora_ga", "lora_ga_config": ga, "use_rslora": True}
        config = LoraConfig("SEQ_CLS", **settings)

        def train_step() -> None:
            for batch in batches:
                model(**batch).loss.backward()

        preprocess_loraga(model, config, train_step)
        adapted = get_peft_model(model, config)
    return {
        name.removeprefix("base_model.model."): (
            module.lora_A["default"].weight.detach(),
            module.lora_B["default"].weight.detach(),
        )
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }


class Counted(list):
    """Batches that count how many of them were taken."""

    given = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            self.given += 1
            yield batch


def report_time(method: str, model: nn.Module, batches: list[dict[str, Tensor]], rounds: int) -> dict[str, Factors]:
    spent: dict[str, list[tuple[float, float]]] = {OURS: [], PEFT: []}
    found: dict[str, Factors] = {}
    prepare(method, OURS, copy.deepcopy(model), batches[:2])  # imports and first touches are in neither figure
    for turn in range(rounds):
        for side in (OURS, PEFT) if turn % 2 else (PEFT, OURS):
            fresh = copy.deepcopy(model)
            wall, cpu = time.perf_counter(), time.process_time()
            found[side] = prepare(method, side, fresh, batches)
            spent[side].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"{method}: preparation, {torch.get_num_threads()} thread(s), {rounds} rounds")
    for i, clock in enumerate(("wall", "CPU")):
        ours, peft = (statistics.median(each[i] for each in spent[side]) for side in (OURS, PEFT))
        print(
            f"  {clock} seconds: ours {ours:.2f}, PEFT {peft:.2f}, ratio {ours / peft:.3f} (target {TIME})", flush=True
        )
    return found


def measure_memory(method: str, side: str, model: nn.Module, batches: list[dict[str, Tensor]]) -> dict[str, float]:
    """Highest growth of the resident set while the adapter is prepared, then of tensors in a second preparation."""
    import peft  # noqa: F401  # in every process, so that its own size does not count
    from torch.profiler import ProfilerActivity, profile

    from lrexp.engine import memory
    from lrexp.methods import catalog

    catalog.load(method)
    cpu = torch.device("cpu")
    fresh, second = copy.deepcopy(model), copy.deepcopy(model)
    few = batches[:4]
    prepare(method, side, fresh, few[:2])  # libraries' own buffers are there before
    memory.reset(cpu)
    before = memory.peak(cpu).bytes
    prepare(method, side, second, few if method == "eva" else batches)
    grown = memory.peak(cpu).bytes - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        prepare(method, side, model, few if method == "eva" else batches)
    return {"rss_mib": grown / 2**20, "tensors_mib": peak_allocated(profiler) / 2**20}


def report_memory(method: str) -> None:
    figures = {}
    for side in (OURS, PEFT):
        command = [sys.executable, *sys.argv, "--memory-of", method, side]
        reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        figures[side] = json.loads(reply.splitlines()[-1])
    for kind in ("rss_mib", "tensors_mib"):
        ours, peft = figures[OURS][kind], figures[PEFT][kind]
        print(
            f"  memory, {kind}: ours {ours:.1f}, PEFT {peft:.1f}, ratio {ours / peft:.3f} (target {MEMORY})", flush=True
        )


def angles(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Largest principal angle in degrees between the row spaces, and the mean squared cosine."""
    Q, P = (torch.linalg.qr(rows.double().mT).Q for rows in (one, other))
    cosines = torch.linalg.svdvals(Q.mT @ P).clamp_max(1)
    return math.degrees(math.acos(float(cosines.min()))), float(cosines.square().mean())


def tell(what: str, pairs: list[tuple[Tensor, Tensor]]) -> None:
    found = [angles(*pair) for pair in pairs]
    largest, shared = [angle for angle, _ in found], [share for _, share in found]
    print(
        f"  {what}: largest angle median {statistics.median(largest):.1f}, worst {max(largest):.1f} degrees;", end=" "
    )
    print(f"shared {statistics.mean(shared):.4f} of the space, least {min(shared):.4f}", flush=True)


def compare_eva(model: nn.Module, batches: list[dict[str, Tensor]], found: dict[str, Factors]) -> None:
    """A of both sides, and of each with the exact components of the rows of all batches."""
    exact = principal(model, batches, found[OURS])
    both = [name for name in found[OURS] if name in found[PEFT]]
    least = {name: min(len(found[side][name][0]) for side in (OURS, PEFT)) for name in both}
    tell("A, ours and PEFT's", [tuple(found[s][n][0][:k] for s in (OURS, PEFT)) for n, k in least.items()])  # type: ignore[misc]
    for side in (OURS, PEFT):
        tell(f"A, {side} and exact", [(found[side][n][0][:k], exact[n][:k]) for n, k in least.items()])


def principal(model: nn.Module, batches: list[dict[str, Tensor]], layers: Factors) -> dict[str, Tensor]:
    """Components by a float64 decomposition of the covariance of all rows."""
    sums: dict[str, list[Any]] = {}
    mask = torch.empty(0)

    def hook(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor]) -> None:
            X = inputs[0][mask.bool()].double()
            held = sums.setdefault(name, [0, 0.0, 0.0])
            held[0], held[1], held[2] = held[0] + len(X), held[1] + X.sum(0), held[2] + X.mT @ X

        return add

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in layers]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            mask = batch["attention_mask"]
            model(**batch)
    for handle in handles:
        handle.remove()
    return {n: torch.linalg.eigh(C - torch.outer(s, s) / T)[1].flip(1).mT[:32] for n, (T, s, C) in sums.items()}


def compare_lora_ga(model: nn.Module, batches: list[dict[str, Tensor]], found: dict[str, Factors]) -> None:
    """A and B of both sides, and of each with the exact singular vectors of the gradient."""
    model.zero_grad()
    for batch in batches:
        model(**batch).loss.backward()
    exact = {}
    for name in found[OURS]:
        U, _, Vh = torch.linalg.svd(model.get_submodule(name).weight.grad.double(), full_matrices=False)  # type: ignore[union-attr]
        exact[name] = Vh[:RANK], U[:, RANK : 2 * RANK]
    for i, factor in enumerate("AB"):
        spaces = {
            side: {n: pair[i].mT if i else pair[i] for n, pair in each.items()}
            for side, each in {**found, "exact": exact}.items()
        }
        for one, other in ((OURS, PEFT), (OURS, "exact"), (PEFT, "exact")):
            tell(f"{factor}, {one} and {other}", [(spaces[one][n], spaces[other][n]) for n in found[OURS]])


if __name__ == "__main__":
    main()
