"""The single entry point: one frozen spec, one run.

Everything that can be known beforehand is checked before the run's folder exists; from then on a failure is a row.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.engine import drift, forward, quantisation, reload, shapes, team
from lrexp.engine import folder as folders
from lrexp.engine.determinism import settled
from lrexp.engine.identify import Run, identify
from lrexp.engine.precision import DTYPES
from lrexp.engine.sampler import calibration, stream_items, total_steps, widest
from lrexp.engine.session import Session
from lrexp.engine.tensors import Tensors
from lrexp.methods import catalog
from lrexp.methods.base import Batch, Context, Method
from lrexp.models import build, load
from lrexp.optim.build import make_optimizer
from lrexp.spec.errors import InputError, Interrupted
from lrexp.spec.places import cache_folder
from lrexp.spec.run_spec import RunSpec
from lrexp.tasks import build as tasks
from lrexp.tasks import fit
from lrexp.tasks.base import Task


def train(
    spec: RunSpec,
    output_dir: str | None = None,
    again: bool = False,
    then: dict[str, Any] | None = None,
    until: int | None = None,
) -> tuple[dict[str, Any], Path]:
    """Runs or resumes a spec; a finished run is recognised and returned as it is.

    `then` is the provenance of a frozen spec, `again` asks for a finished run once more; after step `until` the run
    stands still, to be compared with others. Returns the result and the run's folder; in a process beside the run's
    first (hardware.processes) the result is empty. Raises InputError before the run
    begins, RunError after, Interrupted on a signal, Paused at `until`.
    """
    run = identify(spec, then)
    quantisation.refuse_device(run.spec, run.model)
    folder = folders.locate(output_dir, run.name, spec.method["name"], run.facts["spec_hash"])
    if again:
        folder = folders.again(folder, run.facts["spec_hash"])
    done = standing(run, folder)
    if done is not None:
        return done, folder
    folders.refuse_unwritable(folder)
    with settled(run):
        task = read_data(run)
        context = make_context(run, task)
        if team.number() > 0:
            with team.together(run.spec, run.facts["spec_hash"], folder) as found:
                Session(run, task, context, folder, team=found).follow()
                return {}, folder
        planned = rehearse(run, task, context)
        with folders.held(folder):
            done = standing(run, folder)  # once more: another process may have come and gone since
            if done is not None:
                return done, folder
            with team.together(run.spec, run.facts["spec_hash"], folder) as found:
                return Session(run, task, context, folder, planned, until, found).execute(), folder


def standing(run: Run, folder: Path) -> dict[str, Any] | None:
    """The result if the run is finished in this folder. Raises InputError if the folder is another spec's."""
    folders.refuse_other(folder, run.facts["spec_hash"])
    return folders.finished(folder)


def read_data(run: Run) -> Task:
    """The task, read through and encoded. Raises InputError for whatever is wrong with the data."""
    training = run.spec.training
    best = training.selection == "best"
    items = streamed_items(run.spec)
    task = tasks.build(run.spec.dataset, load.tokenizer(run.place), run.spec.seed, cache_folder(), best, items)
    wanted = training.selection_metric
    if wanted is not None and wanted not in task.metric_names:
        raise InputError(f"training.selection_metric={wanted}: this data set has {', '.join(task.metric_names)}.")
    return task


def streamed_items(spec: RunSpec) -> int | None:
    """How many items of streamed data the run trains on; None for other data, and where epochs say how long."""
    if not tasks.is_streamed(spec.dataset):
        return None
    data = tasks.check(spec.dataset)
    return stream_items(spec.training, data.max_length if data.packing else None, spec.hardware.processes)


def make_context(run: Run, task: Task) -> Context:
    """What the method may ask of this run."""

    def task_loss(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(model, batch) / task.targets(batch)

    trained = task.splits["train"]
    return Context(
        seed=run.spec.seed,
        total_steps=total_steps(run.spec.training, len(trained), trained.tokens, run.spec.hardware.processes),
        device=run.device,
        dtype=DTYPES[run.spec.hardware.precision],
        head=run.model.head,
        cache=cache_folder(),
        task_loss=task_loss,
        calibration=partial(calibration, task, run.spec.seed, run.device),
    )


def rehearse(run: Run, task: Task, context: Context) -> int | None:
    """Prepares the model on shapes alone: tokens that it lacks, targets that match nothing, ranks too large, switches
    that the model or the machine cannot follow end here; nothing is written.

    Gives the bytes of tensors that the widest batch takes; None where the step cannot be followed on shapes.
    """
    method = catalog.build(run.spec.method)  # another instance: the run's own keeps nothing of a rehearsal
    with shapes.on_shapes() as tensors:
        model = build.empty(run.model, run.place, task.outputs, context.dtype)
        fit.refuse_unfit(task, model.config, run.model.name)
        model = method.prepare(model, method.bound(model), context.on_shapes())
        model = quantisation.settle(model, run.model.quantization, context.head)
        method.build_optimizer(groups := method.parameter_groups(model), make_optimizer(run.spec.optimizer, 1.0))
        if not groups and context.total_steps:
            raise InputError(f"method={run.spec.method['name']} trains nothing here: set training.max_steps=0.")
        forward.refuse_unfit(model, run.spec, run.device)
        planned = planned_peak(run, task, method, model, context, tensors)
    if run.spec.training.drift and drift.reads_a_text(run):
        drift.text(run, model.config)
    if run.origin is not None:
        run.origin.refuse_misfits(model)
        decisions = run.origin.decisions(torch.device("cpu"))
        reload.refuse_misfits(run.origin.shapes(), run, task, decisions, context, run.has_new_head)
    return planned


def planned_peak(
    run: Run, task: Task, method: Method, model: nn.Module, context: Context, tensors: Tensors
) -> int | None:
    """The peak of a step on the widest batch. A step that shapes cannot follow is no reason not to run."""
    train, size = task.splits["train"], run.spec.training.per_device_train_batch_size
    batch = task.collate([train.items[i] for i in widest(train, size)])
    try:
        return shapes.first_step(run.spec, task, method, model, context, batch, tensors).peak
    except Interrupted:
        raise
    except Exception:
        return None
