"""training.gradient_checkpointing and training.torch_compile off and on, side by side: step time, memory, compile time.

    python scripts/bench_switches.py                     # the embedded model and MiniLM's shape, LoRA and full
    python scripts/bench_switches.py --model minilm --method full --device cuda

One step is forward, backward and AdamW on one batch (embedded: 32 x 64 tokens; MiniLM's shape with random weights and
dropout 0.1: 32 x 128), as the engine runs it. The four settings take turns in one process, round by round; figures are
medians of wall time. Memory comes from one process per setting: the highest sum of tensor bytes above the model's
within a step. Compile time is that of this one shape; torch's cache of kernels is empty at the start, so
that `both` finds the precompiled headers that `compiled` has made.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from bench_peers import peak_allocated
from torch import nn

from lrexp.engine import forward, memory
from lrexp.linalg.random import seed_ambient
from lrexp.methods import catalog
from lrexp.methods.base import Context, Decisions
from lrexp.methods.catalog import families
from lrexp.models import build, load, model_spec
from lrexp.models.model_spec import Outputs
from lrexp.optim.build import make_optimizer
from lrexp.spec.compose import compose
from lrexp.spec.run_spec import RunSpec, TrainingSpec

SETTINGS = {"off": (False, False), "checkpointing": (True, False), "compiled": (False, True), "both": (True, True)}
MODELS = {"embedded": (32, 64), "minilm": (32, 128)}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--method", nargs="+", default=["lora", "full"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory-of", choices=SETTINGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        run(arguments)
        return
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        sys.exit(subprocess.run([sys.executable, __file__, *sys.argv[1:]], env=environment).returncode)


def run(arguments: argparse.Namespace) -> None:
    for model in arguments.model:
        for method in arguments.method:
            hardware = [f"hardware={arguments.device}", f"hardware.threads={arguments.threads}"]
            spec = compose([f"method={method}", "training.torch_compile=true", *hardware], families())[0]
            torch.set_num_threads(arguments.threads)
            torch.use_deterministic_algorithms(True, warn_only=True)
            if arguments.memory_of:
                print(json.dumps(measure_memory(spec, model, arguments.memory_of)))
            else:
                report(spec, model, arguments.rounds)


def build_step(spec: RunSpec, model_name: str, setting: str) -> Callable[[], None]:
    """Forward, backward and update on a fixed batch, with the switches of the setting."""
    device = torch.device(spec.hardware.device)
    model = prepared(spec, model_name, device)
    forward.arrange(model, switched(spec.training, setting))
    model.train()
    method = catalog.build(spec.method)
    optimizer = method.build_optimizer(method.parameter_groups(model), make_optimizer(spec.optimizer, 1e-4))
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, 4000, MODELS[model_name], generator=draw).to(device)
    mask = torch.ones_like(ids)
    mask[::2, -8:] = 0  # some padding, as in real batches
    labels = ids[:, 0] % 2

    def step() -> None:
        seed_ambient(0)
        logits = model(input_ids=ids, attention_mask=mask).logits
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        memory.synchronize(device)

    return step


def prepared(spec: RunSpec, model_name: str, device: torch.device) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    section = model_spec.read({**spec.model, "name": "embedded"})
    if model_name == "embedded":
        model = build.base(section, load.place(section), Outputs("classification", 2), 0)
    else:
        model = BertForSequenceClassification(BertConfig(**MINILM))  # type: ignore[arg-type]
    context = Context(0, 1, device, torch.float32, head=section.head)
    return catalog.build(spec.method).prepare(model.to(device), Decisions(), context)


def switched(training: TrainingSpec, setting: str) -> TrainingSpec:
    recomputing, compiling = SETTINGS[setting]
    return replace(training, gradient_checkpointing=recomputing, torch_compile=compiling)


def report(spec: RunSpec, model: str, rounds: int) -> None:
    seconds: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    compiling = {}
    with forward.compiler(spec):
        steps = {setting: build_step(spec, model, setting) for setting in SETTINGS}
        for setting, step in steps.items():
            clock = forward.CompileClock()
            with clock.running(spec.training):
                step()
            compiling[setting] = clock.seconds
            step()
        order = list(SETTINGS)
        for turn in range(rounds):
            for setting in order[turn % 4 :] + order[: turn % 4]:
                began = time.perf_counter()
                steps[setting]()
                seconds[setting].append(time.perf_counter() - began)
    size = " x ".join(map(str, MODELS[model]))
    print(f"{model}, {spec.method['name']}, {size} on {spec.hardware.device}, {spec.hardware.threads} threads:")
    base = statistics.median(seconds["off"])
    for setting, found in seconds.items():
        median = statistics.median(found)
        held = memory_of(spec, model, setting)
        print(f"  {setting:<14}{1e3 * median:8.1f} ms a step ({median / base:.2f} of off),", end=" ")
        print(f"{held:8.1f} MiB above the model, compiled in {compiling[setting]:.1f} s", flush=True)


def memory_of(spec: RunSpec, model: str, setting: str) -> float:
    command = [sys.executable, __file__, "--memory-of", setting, "--model", model, "--method", spec.method["name"]]
    command += ["--device", spec.hardware.device, "--threads", str(spec.hardware.threads)]
    reply = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(reply.splitlines()[-1])


def measure_memory(spec: RunSpec, model: str, setting: str) -> float:
    """MiB of tensors at the highest point of a step, above what is there between steps."""
    from torch.profiler import ProfilerActivity, profile

    with forward.compiler(spec), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step = build_step(spec, model, setting)
        step()
        if spec.hardware.device == "cuda":
            memory.reset(torch.device("cuda"))
            before = torch.cuda.memory_allocated()
            step()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
    return peak_allocated(profiler) / 2**20


if __name__ == "__main__":
    main()
