"""A finished run turned back into what it trained, or into what another run starts from.

The base comes from the model's own folder and has to be the one that was trained on; the structure from the method and
the run's decisions; the numbers from what the run kept, where each tensor has its place and each place its tensor.
"""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lrexp.engine import finished as kept_by
from lrexp.engine import quantisation
from lrexp.engine.finished import Finished, Shapes
from lrexp.engine.folder import WEIGHTS
from lrexp.engine.identify import Run
from lrexp.engine.origin import Stored
from lrexp.engine.precision import place
from lrexp.engine.result import kept
from lrexp.linalg.random import stream
from lrexp.methods import catalog
from lrexp.methods.base import Context, Decisions
from lrexp.models import build
from lrexp.models.roles import head_modules
from lrexp.spec.errors import InputError
from lrexp.tasks.base import Task


def stored(finished: Finished, run: Run) -> Stored:
    """What the run in a folder kept; `run` is its spec made concrete. Raises InputError for damaged files."""
    refuse_other_base(finished, run)
    tensors = kept_by.tensors(finished.folder, run.method.keeps_base)
    return Stored(tensors, kept_by.decisions(finished.folder, run.device))


def refuse_other_base(finished: Finished, run: Run) -> None:
    """Raises InputError where an adapter's base is not the one that it was trained on.

    A run that kept its whole model does not need the base's numbers: there a mark ("model differs") is enough.
    """
    then, now = finished.facts.get("model_fingerprint"), run.facts["model_fingerprint"]
    if run.method.keeps_base and then != now:
        raise InputError(
            f"{run.place}: not the model that {finished.folder} was trained on (fingerprint {now[:10]}, then "
            f"{str(then)[:10]}).\nGive the original: model.path=DIR."
        )


def rebuild(run: Run, task: Task, stored: Stored, context: Context) -> nn.Module:
    """The trained model, equal to the bit on the machine and with the threads of the run, in `context.dtype`.

    `context.dtype` is the precision of the run's weights. Raises InputError for tensors that are missing, superfluous
    or of another shape.
    """
    model = build.base(run.model, run.place, task.outputs, stream(run.spec.seed, "init"))
    model = place(model, context.device, context.dtype)
    return restored(run, task, model, stored, context)


def restored(
    run: Run, task: Task, model: nn.Module, stored: Stored, context: Context, new_head: bool = False
) -> nn.Module:
    """`model`, the base, prepared as `stored` has it and with its numbers.

    With `new_head` the head stays as it is in `model` and the stored one is left aside. Raises InputError.
    """
    method, (tensors, decisions) = run.method, stored
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    wanted = refuse_misfits(found, run, task, decisions, context, new_head)
    if new_head:
        tensors = {name: tensor for name, tensor in tensors.items() if name in wanted}
    model = method.reload(model, decisions, context, tensors)
    model = quantisation.settle(model, run.model.quantization, context.head, context.say)
    own = kept(model, method.keeps_base)
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(tensors[name])
    return model


def refuse_misfits(
    found: Shapes, run: Run, task: Task, decisions: Decisions, context: Context, new_head: bool = False
) -> Shapes:
    """The shapes that a run of this spec keeps, without the head if that is new. Raises InputError for others.

    They come from a preparation on shapes alone: nothing is decomposed or drawn for it.
    """
    method = catalog.build(run.spec.method)  # another instance: the run's own keeps nothing of a rehearsal
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build.empty(run.model, run.place, task.outputs, context.dtype)
        head = tuple(f"{name}." for name in head_modules(model, context.head))
        model = method.prepare(model, decisions, context.on_shapes())
        wanted = {name: tuple(tensor.shape) for name, tensor in kept(model, method.keeps_base).items()}
    if new_head:
        found, wanted = (
            {name: shape for name, shape in shapes.items() if not name.startswith(head)} for shapes in (found, wanted)
        )
    _compare(found, wanted, head, WEIGHTS[method.keeps_base])
    return wanted


def _compare(stored: Shapes, wanted: Shapes, head: tuple[str, ...], file: str) -> None:
    missing = [name for name in wanted if name not in stored]
    extra = [name for name in stored if name not in wanted]
    for names, what in ((missing, "missing"), (extra, "without a place in this model")):
        if names:
            more = f" and {len(names) - 1} more" * (len(names) > 1)
            raise InputError(f"{file}: {what}: {names[0]}{more}; it is not the file of this spec.")
    for name, shape in wanted.items():
        found = stored[name]
        if found == shape:
            continue
        if name.startswith(head) and found[1:] == shape[1:]:
            raise InputError(f"the run's head has {found[0]} outputs, this data set needs {shape[0]} (its labels).")
        raise InputError(f"{file}: {name} has the shape {found}, not {shape}; it is not the file of this spec.")
