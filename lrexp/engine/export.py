"""A finished run for other programs: an adapter in PEFT's format, or a plain folder of transformers.

Both are measured on real batches before they are written, on the CPU: the largest difference between the logits of the
trained model and those of what is exported, computed in float32 (in float64 for a float64 run).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lrexp.engine import checkpoint, quantisation
from lrexp.engine.evaluate import batches
from lrexp.engine.files import write_folder
from lrexp.engine.finished import Finished
from lrexp.engine.identify import Run
from lrexp.engine.precision import autocast, place
from lrexp.layers import peft_tuner
from lrexp.layers.adapted import AdaptedLayer, adapted_layers, replace
from lrexp.layers.peft_format import PlainLoRA, peft_config, peft_tensors, plain_lora
from lrexp.layers.quantised import dequantise
from lrexp.methods import catalog
from lrexp.models import build, load
from lrexp.models.roles import head_modules
from lrexp.spec.errors import InputError
from lrexp.tasks.base import Split, Task

RECORD = "lrexp_export.json"
FORMAT = 1
TASK_TYPES = {"classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}  # PEFT's words
BATCHES = 4  # on which logits are compared
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Export:
    """What goes into the folder: how its files are written, and how far its logits are from the trained model's."""

    write: Callable[[Path], object]
    largest_logit_difference: float  # the export alone: both sides in float32 or better
    largest_logit_difference_to_run: float  # against the trained model in the run's own precision


def merged(run: Run, task: Task, model: nn.Module) -> Export:
    """The run as a plain model, merged in float32 or better; uses `model` up. Raises InputError if it cannot merge."""
    name = run.spec.method["name"]
    if not catalog.entry(name).supports.merge:
        raise InputError(f"method={name} cannot be merged into plain weights.")
    as_run, adapted = _trained_logits(run, task, model)
    plain = run.method.finalize(dequantise(model))
    exported = _logits(plain, run, task)
    labels = getattr(task, "labels", None)
    if labels is not None:
        plain.config.id2label = dict(enumerate(labels))  # type: ignore[union-attr]
        plain.config.label2id = {label: i for i, label in enumerate(labels)}  # type: ignore[union-attr]

    tokenizer = load.tokenizer(run.place)

    def write(folder: Path) -> None:
        plain.save_pretrained(folder)  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    return Export(write, _largest(exported, adapted), _largest(exported, as_run))


def peft(run: Run, task: Task, model: nn.Module) -> Export:
    """The run as an adapter for the original base. Raises InputError for what PEFT cannot hold."""
    layers, tuned = adapted_layers(model), peft_tuner.tuner_layers(model)
    if not run.method.keeps_base or not (layers or tuned):
        raise InputError(f"method={run.spec.method['name']} leaves no adapter that PEFT could hold: take --to merged.")
    if run.model.is_drawn:
        raise InputError("the base was drawn from the seed: take --to merged.")  # nobody could have it again
    if tuned:
        return _tuned(run, task, model)
    _refuse_rounded_remainders(run, layers)
    plain = {name: plain_lora(name, layer) for name, layer in layers.items()}
    as_run, adapted = _trained_logits(run, task, model)
    head = head_modules(model, run.model.head)
    tensors = {f"{h}.{n}": t for h in head for n, t in model.get_submodule(h).state_dict().items()}
    base = build.base(run.model, run.place, task.outputs, 0)
    base = place(base, CPU, next(model.parameters()).dtype)
    _refuse_other_changes(model, base, (*layers, *head))
    kind = TASK_TYPES.get(task.outputs.kind)
    config = peft_config(plain, [layer.base for layer in layers.values()], head, kind, run.model.path or run.model.hub)
    whole = quantisation.settle(_with(base, plain, tensors), run.model.quantization, run.model.head)
    exported = _logits(whole, run, task)

    def write(folder: Path) -> None:
        held = {name: tensor.detach().contiguous() for name, tensor in peft_tensors(plain, tensors).items()}
        save_file(held, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    return Export(write, _largest(exported, adapted), _largest(exported, as_run))


def _tuned(run: Run, task: Task, model: nn.Module) -> Export:
    """A run of one of PEFT's own tuners as PEFT itself writes it, put on the original base for that."""
    as_run, adapted = _trained_logits(run, task, model)
    head = head_modules(model, run.model.head)
    base = build.base(run.model, run.place, task.outputs, 0)
    base = place(base, CPU, next(model.parameters()).dtype)
    _refuse_other_changes(model, base, (*peft_tuner.tuner_layers(model), *head))
    place_of_base, kind = run.model.path or run.model.hub, TASK_TYPES.get(task.outputs.kind)
    state = checkpoint.model_state(model)
    whole = peft_tuner.whole(peft_tuner.config_of(model), base, state, head, kind, place_of_base)
    exported = _logits(whole, run, task)
    return Export(partial(peft_tuner.write, whole), _largest(exported, adapted), _largest(exported, as_run))


def _refuse_rounded_remainders(run: Run, layers: Mapping[str, AdaptedLayer]) -> None:
    """Raises InputError where what a start left of the base is quantised: no base of others has it."""
    if run.model.quantization is not None and any(hasattr(layer, "lora_A0") for layer in layers.values()):
        raise InputError(
            f"method={run.spec.method['name']} over {run.model.quantization}: the weights that were quantised are what "
            "its start left of the base, which no adapter can say: take --to merged."
        )


def _refuse_other_changes(model: nn.Module, base: nn.Module, held: tuple[str, ...]) -> None:
    """Raises InputError where training has changed more than adapters and head: a frozen layer's running statistics."""
    original = base.state_dict()
    for name, tensor in checkpoint.model_state(model).items():
        inside = any(name.startswith(f"{module}.") for module in held)
        if not inside and (name not in original or not torch.equal(tensor, original[name])):
            raise InputError(f"{name} has changed in training, for which PEFT's format has no place: take --to merged.")


def _with(base: nn.Module, layers: dict[str, PlainLoRA], head: dict[str, Tensor]) -> nn.Module:
    """The original base with the adapter and the head, as PEFT puts them together; nothing in it is trained."""
    base.requires_grad_(False)
    replace(base, {name: entry.layer(base.get_submodule(name)) for name, entry in layers.items()})
    own = base.state_dict()
    with torch.no_grad():
        for name, tensor in head.items():
            own[name].copy_(tensor)
    return base


def _trained_logits(run: Run, task: Task, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The trained model's logits in the run's own precision, and in float32 or better, in which `model` is left."""
    as_run = _logits(model, run, task, autocast(run.spec.hardware.precision, CPU))
    place(model, CPU, torch.promote_types(next(model.parameters()).dtype, torch.float32))
    return as_run, _logits(model, run, task)


def _logits(
    model: nn.Module, run: Run, task: Task, context: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Tensor:
    """Logits of the first batches of the reported split, in float64."""
    caught: list[Tensor] = []
    handle = model.register_forward_hook(lambda module, inputs, output: caught.append(output.logits.double()))
    was_training = model.training
    model.eval()
    try:
        for batch in batches(task, first(task, _batch_size(run)), _batch_size(run), CPU):
            with torch.inference_mode(), context():
                task.loss(model, batch)
    finally:
        handle.remove()
        model.train(was_training)
    return torch.cat([part.reshape(-1) for part in caught])


def first(task: Task, size: int) -> Split:
    """The items on which logits are compared: as many as fill a few batches of the reported split.

    A sequence of a language model has logits for every token, so that a few sequences say as much.
    """
    split = task.splits[task.reported]
    count = BATCHES if task.outputs.kind == "causal_lm" else BATCHES * size
    return Split(split.items[:count], split.lengths[:count])


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def record(finished: Finished, run: Run, task: Task, kind: str, export: Export) -> dict[str, Any]:
    """What is kept beside the files: where they come from, how exact they are, and the spec for a later evaluation."""
    return {
        "format": FORMAT,
        "to": kind,
        "name": finished.result["name"],
        "method": finished.result["method"],
        "seed": finished.result["seed"],
        **{key: finished.result[key] for key in ("spec_hash", "model_fingerprint", "data_fingerprint")},
        "versions": run.facts["versions"],
        "marks": list(dict.fromkeys([*finished.result["marks"], *run.marks])),  # then, and what differs now
        "num_labels": task.outputs.num_labels,
        "labels": getattr(task, "labels", None),
        "largest_logit_difference": export.largest_logit_difference,
        "largest_logit_difference_to_run": export.largest_logit_difference_to_run,
        "compared_on": {"split": task.reported, "items": len(first(task, _batch_size(run)))},
        "evaluated_on": finished.result["evaluated_on"],
        "metrics": finished.result["metrics"],
        "spec": finished.spec.to_dict(),
    }


def _batch_size(run: Run) -> int:
    return run.spec.training.per_device_eval_batch_size


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a merged export. Raises InputError for one that is not whole, or not merged."""
    try:
        about = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found, to = about["format"], about["to"]
        sound = isinstance(about["spec"], dict) and isinstance(about["num_labels"], int)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RECORD}: not readable as the record of an export ({error!r:.80}).") from error
    if found != FORMAT or not sound:
        raise InputError(f"{folder / RECORD}: format {found} is not one that this lrexp reads ({FORMAT}).")
    if to != "merged":
        raise InputError(f"{folder}: a {to} export holds no whole model. Evaluate its run, or export --to merged.")
    return about


def refuse_occupied(out: Path) -> None:
    """Raises InputError unless `out` is free to be made: not there yet, or an empty folder, where one may write."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"--out {out}: this is no folder. Give a new one.")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {out}: there are files in it already. Give a new folder, or empty this one.")
    place = out.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {place} cannot be written to.")


def write(out: Path, export: Export, about: dict[str, Any]) -> None:
    """Writes the folder whole or not at all; folders above it that were made for it go with it."""
    new = [place for place in out.absolute().parents if not place.exists()]

    def fill(aside: Path) -> None:
        export.write(aside)
        (aside / RECORD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    try:
        write_folder(out.absolute(), fill)
    except BaseException as error:
        with contextlib.suppress(OSError):
            for place in new:
                place.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"--out {out}: could not be written ({error.strerror or error}).") from error
        raise
