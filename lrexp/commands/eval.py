"""lrexp eval RUN [KEY=VALUE ...] [--split NAME] [--format rich|md|csv|json]

Evaluates a finished run, or a folder written by lrexp export --to merged, without training. With nothing else it gives
the run's own metrics again, equal to the bit on the run's machine.

    lrexp eval outputs/docmatch-embedded/lora-1a2b3c4d5e
    lrexp eval RUN dataset=qqp dataset.path=DIR         another data set, with as many labels as the run's
    lrexp eval RUN --split train hardware.precision=float32

Keys: dataset, dataset.*, hardware, hardware.*, model.path, model.tokenizer_path, training.per_device_eval_batch_size.
Nothing is written into RUN. A table of split, metric, value, standard error and number of items; notes go to the error
stream.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.commands.options import Parser
from lrexp.methods.catalog import families
from lrexp.report.render import render
from lrexp.spec import compose
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError
from lrexp.spec.result import STANDARD_ERROR
from lrexp.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from torch import nn

    from lrexp.engine.identify import Run
    from lrexp.methods.base import Context
    from lrexp.tasks.base import Task

COLUMNS = ("split", "metric", "value", "standard_error", "n")
GROUPS = ("dataset", "hardware")
KEYS = ("model.path", "model.tokenizer_path", "training.per_device_eval_batch_size")


@dataclass(frozen=True)
class Source:
    """A trained model that can be had, and the spec of its evaluation."""

    run: Run
    model: Callable[[Task, Context], nn.Module]


def main(arguments: list[str]) -> int:
    """Evaluates and prints the table."""
    options = _parse(arguments)
    source = find(options.run, options.overrides)
    rows = evaluated(source, options.split)
    spec = source.run.spec
    for mark in source.run.marks:
        print(f"lrexp eval: {mark}", file=sys.stderr)
    title = f"{spec.method['name']} on {spec.dataset['name']}, seed {spec.seed}: {options.run}"
    render(COLUMNS, rows, options.format, title)
    return 0


def evaluated(source: Source, split: str | None = None) -> list[dict[str, Any]]:
    """One row for each metric of a split, or of all but train, the reported one first. Raises InputError, RunError."""
    from lrexp.engine.determinism import settled
    from lrexp.engine.evaluate import predict
    from lrexp.engine.precision import autocast

    run, size = source.run, source.run.spec.training.per_device_eval_batch_size
    rows: list[dict[str, Any]] = []
    with settled(run):
        task, model = trained(source)
        for name in _splits(task, split):
            context = autocast(run.spec.hardware.precision, run.device)
            metrics = task.metrics(predict(model, task, task.splits[name], size, run.device, context))
            rows += _rows(name, metrics, len(task.splits[name]))
    return rows


def trained(source: Source) -> tuple[Task, nn.Module]:
    """The task, and the trained model in the precision and on the device of the evaluation."""
    from lrexp.engine.precision import place
    from lrexp.tasks import fit
    from lrexp.train import make_context, read_data

    task = read_data(source.run)
    context = make_context(source.run, task)
    model = source.model(task, context)
    fit.refuse_unfit(task, model.config, source.run.model.name)  # other data may be longer than the run's
    return task, place(model, context.device, context.dtype)


def _splits(task: Task, wanted: str | None) -> list[str]:
    if wanted is None:
        return [task.reported, *(name for name in task.splits if name not in ("train", task.reported))]
    if wanted not in task.splits:
        raise InputError(unknown("--split", wanted, list(task.splits), "split", "Splits"))
    return [wanted]


def _rows(split: str, metrics: dict[str, float], n: int) -> Iterator[dict[str, Any]]:
    for name, value in metrics.items():
        if not name.endswith(STANDARD_ERROR):
            error = metrics.get(f"{name}{STANDARD_ERROR}")
            yield {"split": split, "metric": name, "value": value, "standard_error": error, "n": n}


def find(folder: Path, overrides: list[str]) -> Source:
    """The run in a folder, or the merged export, with the spec that the overrides ask for. Raises InputError."""
    from lrexp.engine import export

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    return _exported(folder, overrides) if (folder / export.RECORD).is_file() else _run(folder, overrides)


def _run(folder: Path, overrides: list[str]) -> Source:
    from lrexp.engine import finished as folders
    from lrexp.engine import reload
    from lrexp.engine.identify import identify
    from lrexp.engine.precision import DTYPES

    finished = folders.read(folder)
    spec = changed(replace(finished.spec, init_from=None), overrides)  # where it came from is of no matter now
    then = {k: v for k, v in finished.facts.items() if k != "data_fingerprint" or not _names(overrides, "dataset")}
    run = identify(spec, then)
    stored = reload.stored(finished, run)

    def model(task: Task, context: Context) -> nn.Module:
        as_trained = replace(context, dtype=DTYPES[finished.spec.hardware.precision])
        return reload.rebuild(run, task, stored, as_trained)

    return Source(run, model)


def _exported(folder: Path, overrides: list[str]) -> Source:
    """A merged export, in float32 whatever the run had, unless the overrides say otherwise."""
    from lrexp.engine import export
    from lrexp.engine.identify import identify
    from lrexp.models import build

    about = export.read_record(folder)
    spec = RunSpec.from_dict(about["spec"], f"{folder / export.RECORD}: ")
    hardware = replace(spec.hardware, precision="float32")
    lies = {"path": str(folder), "quantization": None} | (
        {"tokenizer_path": None} if "tokenizer_path" in spec.model else {}
    )
    spec = replace(spec, model=spec.model | lies, hardware=hardware, init_from=None)  # the folder has all of it
    run = identify(changed(spec, overrides))

    def model(task: Task, context: Context) -> nn.Module:
        outputs = about["num_labels"]
        if task.outputs.num_labels != outputs:
            raise InputError(
                f"the model has {outputs} outputs, this data set needs {task.outputs.num_labels} (its labels)."
            )
        whole = replace(run.model, head=())  # no weight may be missing
        return build.base(whole, run.place, task.outputs, 0)

    return Source(run, model)


def changed(spec: RunSpec, overrides: list[str]) -> RunSpec:
    """The spec with another data set or other hardware. Raises InputError for keys that only training looks at."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if "=" in override and key.split(".")[0] not in GROUPS and key not in KEYS:
            raise InputError(f"eval: {override}: an evaluation takes dataset, hardware, {', '.join(KEYS)} alone.")
    anew = [group for group in GROUPS if _names(overrides, group)]
    inside = [override for override in overrides if override.partition("=")[0].split(".")[0].strip() in anew]
    if anew:
        fresh, _ = compose.compose(inside, families())
        spec = replace(spec, **{group: getattr(fresh, group) for group in anew})
    spec, _ = compose.override(spec, [override for override in overrides if override not in inside])
    return replace(spec, training=replace(spec.training, selection_metric=None))  # nothing is selected here


def _names(overrides: list[str], group: str) -> bool:
    """Whether a choice of the group is among the overrides."""
    return any(override.partition("=")[0].strip() == group for override in overrides)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("eval")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--split", metavar="NAME")
    return parser.parse_intermixed_args(arguments)
