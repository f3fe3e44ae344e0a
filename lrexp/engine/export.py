"""A finished run for other programs: a plain folder of transformers here, an adapter of PEFT's in `peft_export`.

Both are measured on real batches before they are written, on the CPU: the largest difference between the logits of the
trained model and those of what is exported, computed in float32 (in float64 for a float64 run).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.engine.evaluate import batches
from lrexp.engine.files import write_folder
from lrexp.engine.finished import Finished
from lrexp.engine.identify import Run
from lrexp.engine.precision import autocast, place
from lrexp.layers.quantised import dequantise
from lrexp.methods import catalog
from lrexp.models import load
from lrexp.spec.errors import InputError
from lrexp.tasks.base import Split, Task

RECORD = "lrexp_export.json"
FORMAT = 1
BATCHES = 4  # on which logits are compared
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Export:
    """What goes into the folder: how its files are written, and how far its logits are from the trained model's."""

    write: Callable[[Path], object]
    largest_logit_difference: float  # the export alone: both sides in float32 or better
    largest_logit_difference_to_run: float  # against the trained model in the run's own precision
    truncated: dict[str, Any] | None = None  # the rank of an approximation and what it loses; None: nothing is cut

    @classmethod
    def measured(
        cls,
        write: Callable[[Path], object],
        exported: Tensor,
        trained: tuple[Tensor, Tensor],
        truncated: dict[str, Any] | None = None,
    ) -> Export:
        """With the differences of the logits; `trained` are those of `trained_logits`."""
        as_run, adapted = (float((exported - each).abs().max()) for each in trained)
        return cls(write, adapted, as_run, truncated)


def merged(run: Run, task: Task, model: nn.Module) -> Export:
    """The run as a plain model, merged in float32 or better; uses `model` up. Raises InputError if it cannot merge."""
    name = run.spec.method["name"]
    if not catalog.entry(name).supports.merge:
        raise InputError(f"method={name} cannot be merged into plain weights.")
    trained = trained_logits(run, task, model)
    plain = run.method.finalize(dequantise(model))
    exported = logits(plain, run, task)
    labels = getattr(task, "labels", None)
    if labels is not None:
        plain.config.id2label = dict(enumerate(labels))  # type: ignore[union-attr]
        plain.config.label2id = {label: i for i, label in enumerate(labels)}  # type: ignore[union-attr]

    tokenizer = load.tokenizer(run.place)

    def write(folder: Path) -> None:
        plain.save_pretrained(folder)  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    return Export.measured(write, exported, trained)


def trained_logits(run: Run, task: Task, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The trained model's logits in the run's own precision, and in float32 or better, in which `model` is left."""
    as_run = logits(model, run, task, autocast(run.spec.hardware.precision, CPU))
    place(model, CPU, torch.promote_types(next(model.parameters()).dtype, torch.float32))
    return as_run, logits(model, run, task)


def logits(
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
        "truncated": export.truncated,
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
