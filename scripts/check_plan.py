"""Planned against measured peaks: eight small specs, planned on shapes and then trained for two steps.

    python scripts/check_plan.py                  # the eight
    python scripts/check_plan.py method=galore    # any that runs here

A plan's batch (every item of full length) is trained on, so that both speak of the same step. On the CPU the measured
peak is that of torch's allocator in the two updates, by its profiler, on top of the model and what else is held before
them; it sees what operations take inside themselves too. On CUDA it is what was allocated. Ends with 1 where a plan
is off by more than 10 %, on CUDA by 5 %.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path

import torch
from bench_peers import peak_allocated
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from lrexp.engine import forward, memory
from lrexp.engine.identify import Run, identify
from lrexp.engine.session import Session
from lrexp.engine.update import Update, with_optimizer
from lrexp.methods.catalog import families
from lrexp.plan.plan import plan
from lrexp.report import quantity
from lrexp.report.render import render
from lrexp.spec.compose import compose
from lrexp.tasks import blank
from lrexp.train import make_context, read_data

SPECS = (
    "method=lora",
    "method=full training.gradient_accumulation_steps=2",
    "method=pissa training.gradient_checkpointing=true",
    "method=eva hardware.precision=bf16_autocast",
    "method=galore model=llama_tiny dataset=corpus",
    "method=sltrain model=llama_tiny dataset=corpus hardware.precision=bf16",
    "method=full model=llama_tiny dataset=corpus optimizer=adamw8bit training.per_layer_updates=true "
    "training.max_grad_norm=null",
    "method=said",
)
COLUMNS = ("spec", "planned", "measured", "ratio")


def main() -> int:
    lines = [" ".join(sys.argv[1:])] if sys.argv[1:] else list(SPECS)
    rows, worst = [], 0.0
    for line in lines:
        spec = compose(line.split(), families())[0]
        planned, measured = plan(spec).peak, measure(identify(spec))
        limit = 0.05 if torch.cuda.is_available() else 0.10
        worst = max(worst, abs(planned / measured - 1) / limit)
        shown = {"planned": quantity.memory(planned), "measured": quantity.memory(measured)}
        rows.append({"spec": line, **shown, "ratio": planned / measured})
    render(COLUMNS, rows)
    return 0 if worst <= 1 else 1


def measure(run: Run) -> int:
    """The peak of two updates, as the engine makes them, on the batch of the plan."""
    torch.set_num_threads(1)
    before = storages()
    task = read_data(run)
    context = make_context(run, task)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(run, task, context, Path(folder))
        model = session.prepare()
    forward.arrange(model, run.spec.training)
    model.train()
    batch = blank.batch(blank.blank(run.spec.dataset), run.spec.training.per_device_train_batch_size)
    held = storages() - before
    memory.reset(run.device)
    with torch.profiler.profile(profile_memory=True) as profiler:
        update = Update(run.spec, task, with_optimizer(run.spec, run.method, model, session.decisions), context)
        for step in range(2):
            batches: list[dict[str, Tensor]] = [{name: tensor.clone() for name, tensor in batch.items()}]
            update.step(step, batches * run.spec.training.gradient_accumulation_steps)
    if run.device.type == "cuda":
        return memory.peak(run.device).bytes
    return sum(size for _, size in held) + peak_allocated(profiler)


def storages() -> set[tuple[int, int]]:
    """Where all tensors that are alive have their storage, and its bytes."""
    gc.collect()
    alive = (each for each in gc.get_objects() if issubclass(type(each), Tensor) and type(each) is not FakeTensor)
    found = (tensor.untyped_storage() for tensor in alive if tensor.layout == torch.strided)
    return {(storage.data_ptr(), storage.nbytes()) for storage in found}


if __name__ == "__main__":
    sys.exit(main())
