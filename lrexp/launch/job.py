"""One run of a sweep: its frozen spec, its folder, and where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from lrexp.engine import folder as folders
from lrexp.engine.identify import Run, identify, resolve
from lrexp.engine.sampler import total_steps
from lrexp.report.collect import last_step, locked
from lrexp.spec import rungs
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec
from lrexp.train import make_context, read_data, rehearse, streamed_items


class Extent(NamedTuple):
    """How many items there are to train on, and the tokens of each where all have one length."""

    items: int
    tokens: int | None


@dataclass
class Job:
    """A frozen spec on its way through a launcher.

    `state` is waiting, queued, running, finished, failed, interrupted or paused (at `until`, before the last step).
    """

    spec: RunSpec
    folder: Path
    label: str
    spec_hash: str
    steps: int
    state: str = "waiting"
    error: str = ""
    seconds: float = 0.0
    attempts: int = field(default=0, repr=False)
    until: int | None = None

    def text(self) -> str:
        """The frozen spec as a worker gets it: nothing that is edited meanwhile can reach it."""
        return self.spec.to_yaml({"spec_hash": self.spec_hash})

    def step(self) -> int:
        """The last step that the run has recorded."""
        return last_step(self.folder) or 0

    def is_held(self) -> bool:
        """Whether some process has the run's folder."""
        return self.folder.is_dir() and locked(self.folder)

    def look(self) -> str:
        """What the folder says: finished, failed, paused, interrupted or waiting (nothing there yet)."""
        result = folders.result(self.folder)
        if result.get("status") in ("finished", "failed"):
            self.error = (result.get("error") or "").partition("\n")[0]
            return str(result["status"])
        if self.until is not None and rungs.reached(self.folder, self.until):
            return "paused"
        return "interrupted" if (self.folder / "spec.yaml").exists() else "waiting"


def jobs(
    specs: list[tuple[RunSpec, str]],
    output_dir: str | None,
    extents: dict[str, Extent] | None = None,
    resolve: Callable[[str], torch.device] = resolve,
) -> list[Job]:
    """The runs of a sweep, each spec once. Raises InputError for a spec that could not run, before any is started.

    `extents` holds what is known from specs that were looked at before, and takes in what is found;
    `resolve` is `identify`'s.
    """
    found: dict[Path, Job] = {}
    extents = {} if extents is None else extents
    for spec, label in specs:
        try:
            run = identify(spec, resolve=resolve)
            steps = total_steps(spec.training, *_rehearse(run, extents), spec.hardware.processes)
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
        spec_hash = run.facts["spec_hash"]
        usual = folders.locate(None, run.name, spec.method["name"], spec_hash)
        folder = Path(output_dir) / usual.name if output_dir else usual
        folders.refuse_other(folder, spec_hash)
        folders.refuse_unwritable(folder)
        found.setdefault(folder, Job(run.spec, folder, label, spec_hash, steps))
    return list(found.values())


def _rehearse(run: Run, extents: dict[str, Extent]) -> Extent:
    """Reads the data and prepares the model on shapes, once for all runs in which nothing differs that this can refuse.

    Returns how much the run trains on.
    """
    spec = run.spec
    switches = spec.training.selection, spec.training.gradient_checkpointing, spec.training.torch_compile
    hardware = spec.hardware.device, spec.hardware.precision
    items = streamed_items(spec)
    training = spec.training.max_steps == 0, spec.optimizer, switches
    about = json.dumps([spec.model, spec.dataset, spec.method, spec.init_from, training, hardware, items])
    if about not in extents:
        task = read_data(run)
        rehearse(run, task, make_context(run, task))
        extents[about] = Extent(len(task.splits["train"]), task.splits["train"].tokens)
    return extents[about]
