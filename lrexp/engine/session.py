"""A run from its first write to its last: prepare, fit, evaluate, result; what goes wrong becomes a row."""

from __future__ import annotations

import errno
import os
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrexp.engine import checkpoint, drift, forward, memory, precision, provenance, quantisation, reload, result
from lrexp.engine import folder as folders
from lrexp.engine.evaluate import predict
from lrexp.engine.files import write_text
from lrexp.engine.finished import keep_decisions
from lrexp.engine.follower import Follower
from lrexp.engine.identify import Run
from lrexp.engine.loop import Loop
from lrexp.engine.progress import Progress, Silence
from lrexp.engine.record import finite
from lrexp.engine.state import State
from lrexp.engine.stop import StopRequest
from lrexp.engine.team import ALONE, Team
from lrexp.engine.tracking import Mirror, open_mirror
from lrexp.engine.update import with_optimizer
from lrexp.linalg.random import stream
from lrexp.methods.base import Context, Decisions
from lrexp.models import build
from lrexp.models.roles import head_modules
from lrexp.spec.errors import InputError, Interrupted, Paused, RunError
from lrexp.tasks.base import Task


class Session:
    """One run in a folder that is held by this process."""

    def __init__(
        self,
        run: Run,
        task: Task,
        context: Context,
        folder: Path,
        planned: int | None = None,
        until: int | None = None,
        team: Team = ALONE,
    ) -> None:
        self.run, self.task, self.context, self.folder = run, task, context, folder
        self.planned = planned  # bytes of tensors at the peak of training
        self.until, self.team = until, team
        self.state = State()
        self.decisions = Decisions()
        self.model: nn.Module | None = None
        self.loop: Loop | None = None
        self.mirror = Mirror()
        self.costs: dict[str, Any] = {}  # once noted: what is measured after the run's end is not charged to it

    def execute(self) -> dict[str, Any]:
        """Runs to the end and returns the result. Raises RunError, with its row written, Interrupted or Paused."""
        with Progress(self.folder / "log.txt", self.run.spec.method["name"]) as progress, StopRequest() as stop:
            try:
                folders.sweep_leftovers(self.folder)
                (self.folder / "result.json").unlink(missing_ok=True)
                (self.folder / "checkpoints").mkdir(exist_ok=True)
                write_text(self.folder / "spec.yaml", self.run.spec.to_yaml(self.run.facts))
                self.mirror = open_mirror(self.run.spec, self.run.facts, self.folder, progress.say)
                self._fit(progress, stop)
                row = self._finish()
                progress.note(f"finished: {row['primary_metric']} {row['metrics'][row['primary_metric']]}")
            except (Interrupted, Paused, KeyboardInterrupt) as error:
                self.mirror.finish(None)
                progress.note(str(error) or "interrupted")
                raise
            except Exception as error:
                failure = self.team.reason() or explain(error, self._where())
                if not isinstance(error, RunError | InputError):
                    progress.note("".join(traceback.format_exception(error)).rstrip())
                progress.note(str(failure))  # the log's last line
                self.mirror.finish(self._record(failure))
                raise failure from error
            self.mirror.finish(row)
            return row

    def _fit(self, progress: Progress, stop: StopRequest) -> None:
        run = self.run
        hardware = run.spec.hardware
        self.context = replace(self.context, say=progress.say)
        progress.note(
            f"{run.name}, {run.spec.method['name']}, seed {run.spec.seed}: {self.context.total_steps} steps on "
            f"{hardware.device} in {hardware.precision}, {hardware.threads} threads; spec {run.facts['spec_hash']}"
        )
        for mark in run.marks:
            progress.say(mark)
        saved = checkpoint.read_latest(self.folder / "checkpoints", progress.say)
        self.loop = self._made(Loop, progress, stop, saved)
        if run.origin is not None:
            progress.say(f"starts from the weights of {run.origin.folder}{self._of_its_head(self.loop.model)}")
        self.loop.record.mirror, self.loop.until = self.mirror, self.until
        del saved  # its tensors are in the model and the optimizer now
        self.loop.run()

    def follow(self) -> None:
        """Trains beside the first process to the last step. Raises RunError."""
        try:
            saved = checkpoint.read_latest(self.folder / "checkpoints", lambda text: None)
            self.loop = self._made(Follower, Silence(), StopRequest(), saved)
            del saved
            self.loop.run()
        except Exception as error:
            raise explain(error, self._where()) from error

    def _made(self, kind: type[Loop], progress: Progress, stop: StopRequest, saved: checkpoint.Saved | None) -> Loop:
        """The loop, its model prepared and all of it where the checkpoint left it."""
        spec = self.run.spec
        self.model = self.prepare(saved)
        forward.arrange(self.model, spec.training)
        if spec.training.torch_compile:
            progress.say("compiling: the first step with each new shape of batch takes its time")
        prepared = with_optimizer(spec, self.run.method, self.model, self.decisions, self.team)
        loop = kind(spec, self.task, prepared, self.context, self.folder, progress, stop, self.state, self.team)
        if saved is not None:
            loop.resume(saved)
        self.team.refuse_unequal(self.model)
        return loop

    def _of_its_head(self, model: nn.Module) -> str:
        """What becomes of the head of the run in `init_from`; nothing is said where the model has none."""
        if not head_modules(model, self.context.head):
            return ""
        return ", its head drawn anew, since the data are others" if self.run.has_new_head else ", its head included"

    def prepare(self, saved: checkpoint.Saved | None = None) -> nn.Module:
        """The model as the method trains it, by the decisions of the checkpoint if there is one.

        Notes the method's own time and peak memory: loading the base is not counted.
        """
        run, device = self.run, self.run.device
        seed = stream(run.spec.seed, "init")
        model = build.base(run.model, run.place, self.task.outputs, seed)
        model = precision.place(model, device, self.context.dtype)
        if saved is None:
            self._measure(model, "base")
        memory.reset(device)
        begin = time.perf_counter()
        model = self._prepare(model, saved)
        memory.synchronize(device)
        self.state.prepare_seconds = time.perf_counter() - begin
        self.state.prepare_peak_bytes = memory.peak(device).bytes
        if saved is None and self.context.total_steps:
            self._measure(model, "prepared")
        return model

    def _measure(self, model: nn.Module, stage: str) -> None:
        """Notes the quality of the base, or of the model as prepared, where the method asks for it."""
        if not self.run.method.measures_base or not self.team.is_first:
            return
        begin, task, training = time.perf_counter(), self.task, self.run.spec.training
        autocast = precision.autocast(self.run.spec.hardware.precision, self.run.device)
        columns = predict(
            model, task, task.splits[task.reported], training.per_device_eval_batch_size, self.run.device, autocast
        )
        self.state.measured |= {f"{stage}_{k}": finite(v) for k, v in task.metrics(columns).items()}
        self.state.evaluate_seconds += time.perf_counter() - begin

    def _prepare(self, base: nn.Module, saved: checkpoint.Saved | None) -> nn.Module:
        """As the checkpoint has it, else as the run in `init_from` ended, else from the base alone."""
        run = self.run
        if saved is not None:
            self.decisions = Decisions(**saved.part("decisions", run.device))
            model = run.method.reload(base, self.decisions, self.context, saved.model())
            return self._settled(model)
        if run.origin is not None:
            stored = run.origin.stored(self.context)
            self.decisions = stored.decisions
            return reload.restored(run, self.task, base, stored, self.context, run.has_new_head)
        self.decisions = run.method.decide(base, self.context)
        model = run.method.prepare(base, self.decisions, self.context)
        return self._settled(model)

    def _settled(self, model: nn.Module) -> nn.Module:
        return quantisation.settle(model, self.run.model.quantization, self.context.head, self.context.say)

    def _finish(self) -> dict[str, Any]:
        assert self.loop is not None and self.model is not None
        metrics = result.evaluate(self.loop)
        result.write_weights(self.folder, self.model, self.run.method.keeps_base)
        keep_decisions(self.folder, self.decisions)
        if self.run.spec.training.drift:
            self.costs = self._costs()
            found, seconds = drift.measure(self.run, self.task, self.loop)
            metrics |= {name: finite(value) for name, value in found.items()}
            self.costs["drift_seconds"] = seconds
        return self._record(None, metrics)

    def _costs(self) -> dict[str, Any]:
        if self.loop:
            self.loop.note_costs()
        return result.costs(self.model, self.loop.state if self.loop else self.state, self.loop)

    def _where(self) -> str:
        """Where the run is, for a message about its failure."""
        if self.loop is None:
            return "before the first step"
        step = self.loop.state.step
        return f"at step {step + 1}" if self.loop.in_step else f"after step {step}"

    def _record(self, failure: RunError | None, metrics: dict[str, float | None] | None = None) -> dict[str, Any]:
        """Writes result.json, as the last file of the run; a disk that is full is no second failure."""
        run, loop = self.run, self.loop
        spec = run.spec
        costs = self.costs or self._costs()
        facts = {k: run.facts[k] for k in ("versions", "data_fingerprint", "model_fingerprint", "spec_hash")}
        facts["init_fingerprint"] = run.facts.get("init_fingerprint")
        row = {
            "status": "failed" if failure else "finished",
            "error": str(failure) if failure else None,
            "failed_at_step": (loop.state.step + loop.in_step or None) if failure and loop else None,
            "name": run.name,
            "method": spec.method["name"],
            "model": spec.model["name"],
            "dataset": spec.dataset["name"],
            "seed": spec.seed,
            "evaluated_on": self.task.reported,
            "primary_metric": self.task.primary_metric,
            "metrics": metrics or {},
            "costs": {**costs, "planned_peak_bytes": self.planned},
            "hardware": provenance.hardware(run.device, spec.hardware.threads, spec.hardware.precision),
            "marks": run.marks,
            **facts,
        }
        try:
            return result.write(self.folder, row)
        except OSError:
            if failure is None:
                raise
            return row


def explain(error: Exception, where: str) -> RunError:
    """What went wrong, where ("at step 3") and what to try, in one or two lines; the source line of a mute error."""
    if isinstance(error, RunError):
        return error
    source = "".join(frame.line or "" for frame in traceback.extract_tb(error.__traceback__)[-1:])
    text = (str(error).strip() or source or type(error).__name__).splitlines()[0][:200]
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return RunError(
            f"out of memory {where}. Try a smaller training.per_device_train_batch_size with more "
            "training.gradient_accumulation_steps, or hardware.precision=bf16."
        )
    if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
        return RunError(
            f"the disk is full {where}; what was saved before is whole. Free some space and give the same command "
            "again."
        )
    if words := forward.compilers_words(error):
        return RunError(f"torch.compile failed {where}: {words}\n{forward.OFF}; LREXP_DEBUG=1 shows more.")
    if isinstance(error, OSError | InputError):
        return RunError(f"{text} ({where})")
    return RunError(f"{type(error).__name__} {where}: {text}")
