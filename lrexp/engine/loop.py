"""The training loop: one spec, one model, one method, from the first step or from a checkpoint to the last."""

from __future__ import annotations

import math
import statistics
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from lrexp.engine import checkpoint, memory
from lrexp.engine.files import write_text
from lrexp.engine.forward import CompileClock, evaluation
from lrexp.engine.progress import Progress
from lrexp.engine.record import Record, finite
from lrexp.engine.sampler import of_run
from lrexp.engine.selection import Selection
from lrexp.engine.state import Prepared, State
from lrexp.engine.stop import StopRequest
from lrexp.engine.team import Team
from lrexp.engine.update import Update
from lrexp.methods.base import Batch, Context
from lrexp.spec import rungs
from lrexp.spec.errors import Interrupted, Paused
from lrexp.spec.run_spec import RunSpec
from lrexp.tasks.base import Task

WARMUP = 3  # first steps of a process, left out of the step time


class Loop:
    """Trains a prepared model; everything that decides a number is a pure function of the spec and the step."""

    def __init__(
        self, spec: RunSpec, task: Task, prepared: Prepared, context: Context, folder: Path, progress: Progress,
        stop: StopRequest, state: State, team: Team,
    ) -> None:  # fmt: skip
        self.spec, self.task, self.context, self.folder = spec, task, context, folder
        self.method, self.model, self.decisions = prepared.method, prepared.model, prepared.decisions
        self.optimizer, self.names = prepared.optimizer, prepared.names
        self.progress, self.stop, self.state, self.team = progress, stop, state, team
        self.whole = not self.method.keeps_base  # whether a checkpoint needs all parameters
        self.update = Update(spec, task, prepared, context, team)
        self.evaluation = evaluation(self.update.autocast, spec.training)
        self.compiling = CompileClock()
        self.record = Record(folder / "metrics.jsonl")
        self.sampler = of_run(spec, task)
        self.until: int | None = None  # the step at which the run stands still to be compared
        self.in_step = False
        self.durations: list[float] = []
        self.seconds = 0.0  # the sum of `durations`
        self.tokens = 0  # of this process

    def resume(self, saved: checkpoint.Saved) -> None:
        """Takes everything back from a checkpoint. Raises RunError if it does not fit."""
        device = self.context.device
        try:
            checkpoint.load_model_state(self.model, saved.model(), self.whole)
            checkpoint.load_optimizer_state(self.optimizer, self.names, saved.part("optimizer", device))
            self.method.load_state_dict(saved.part("method", device))
            self.state = State(**saved.part("state", device))
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoint.misfit(saved.place, error) from error
        self._note_resume(saved.place.parent)
        self.progress.say(f"resumed from step {self.state.step}")

    def _note_resume(self, place: Path) -> None:
        self.state.resumed_from = checkpoint.note_resume(place, self.state.step)

    def run(self) -> None:
        """Goes on to the last step. Raises Interrupted after a signal, RunError on a bad number."""
        memory.reset(self.context.device)
        self.record.cut(self.state.recorded)
        selection = Selection(self)
        self.model.train()
        with self.compiling.running(self.spec.training):
            while True:
                self._settle(selection)
                if self.state.step >= self.context.total_steps:
                    break
                if self.until is not None and self.state.step >= self.until:
                    self._pause(selection)
                self._timed_step()
        selection.restore()

    def _settle(self, selection: Selection) -> None:
        """What is due between two steps: an evaluation, a checkpoint, the end."""
        step, last, every = self.state.step, self.context.total_steps, self.spec.training.save_steps
        if selection.is_due() and self.state.evaluated < step:
            with suppress(Interrupted):  # a signal: the checkpoint below comes first, the resumed run evaluates anew
                selection.evaluate()
        asked = self.stop.asked
        due = step > 0 and (step == last or (every is not None and step % every == 0))
        decided = step == 0 and bool(self.decisions.values or self.decisions.tensors)  # nothing is decided twice
        if (due or decided or asked) and self.state.saved < step:
            self.save()
        if asked:
            raise Interrupted(f"stopped by {asked} after step {step}; the same command goes on from there")

    def _pause(self, selection: Selection) -> NoReturn:
        """Saves, notes how good the model is now, and raises Paused."""
        if self.state.saved < self.state.step:
            self.save()
        metrics = selection.measure()
        metric, value = selection.metric, metrics[selection.metric]
        measured = finite(value), finite(metrics["loss"])
        write_text(self.folder / rungs.FILE, rungs.with_another(self.folder, self.state.step, metric, *measured))
        raise Paused(f"paused after step {self.state.step}: {metric} {value:.6g}")

    def save(self) -> None:
        """Writes a checkpoint of this step."""
        self.state.saved = self.state.step
        self.state.recorded = self.record.sync()
        self.note_costs()
        state = {
            "state": asdict(self.state),
            "optimizer": checkpoint.optimizer_state(self.optimizer, self.names),
            "method": self.method.state_dict(),
            "decisions": vars(self.decisions),
        }
        tensors = checkpoint.model_state(self.model, self.whole)
        checkpoint.save(self.folder / "checkpoints", self.state.step, tensors, state)

    def _timed_step(self) -> None:
        begin, compiled = time.perf_counter(), self.compiling.seconds
        self.in_step = True
        loss = self._step(self.state.step)
        self.in_step = False
        duration = time.perf_counter() - begin
        compiling = self.compiling.seconds - compiled
        self.durations.append(duration - compiling)
        self.seconds += self.durations[-1]
        self.state.train_seconds += duration
        self.state.compile_seconds += compiling
        self.state.step += 1
        if self.progress.due(self.state.step == self.context.total_steps):
            rates = len(self.durations) / self.seconds, self.tokens / self.seconds
            peak = memory.peak(self.context.device).bytes
            self.progress.step(self.state.step, self.context.total_steps, loss, *rates, peak)

    def _step(self, step: int) -> float:
        """One update of the weights; returns the loss per target of its batch."""
        loss, norm = self.update.step(step, *self._micro_batches(step))
        self._log(step, loss, norm)
        return loss

    def _micro_batches(self, step: int) -> tuple[list[Batch], Batch | None]:
        """This process's batches of one update, on the CPU: how many targets they hold is known before one is moved.

        Micro-batches are dealt out in turn. A process that is left without its last, at the end of an epoch, gets the
        first of all beside its own: it is walked through with no weight, so that all processes do the same passes.
        """
        indices, team = self.sampler.batch(step), self.team
        size = self.spec.training.per_device_train_batch_size
        items = self.task.splits["train"].items
        cuts = [indices[at : at + size] for at in range(0, len(indices), size)]
        batches: list[Batch] = [self.task.collate([items[i] for i in cut]) for cut in cuts[team.rank :: team.size]]
        (tokens,) = team.total(sum(self.task.tokens(batch) for batch in batches), device=self.context.device)
        self.tokens += int(tokens)
        self.state.tokens_seen += int(tokens)
        is_whole = len(batches) == math.ceil(len(cuts) / team.size)
        return batches, None if is_whole else self.task.collate([items[i] for i in cuts[0]])

    def _log(self, step: int, loss: float, norm: float | None) -> None:
        self.state.loss_sum += loss
        self.state.loss_steps += 1
        done = step + 1
        if done % self.spec.training.logging_steps and done != self.context.total_steps:
            return
        values = {
            "train/loss": self.state.loss_sum / self.state.loss_steps,
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if norm is not None:
            values["train/gradient_norm"] = norm
        self.record.add(done, values | {f"method/{k}": v for k, v in self.method.metrics().items()})
        self.state.loss_sum, self.state.loss_steps = 0.0, 0

    def note_costs(self) -> None:
        """Brings peak memory and speed into the state; the speed is that of the last process with enough steps."""
        peak = memory.peak(self.context.device)
        self.state.peak_bytes = max(self.state.peak_bytes, peak.bytes)
        self.state.reserved_bytes = max(self.state.reserved_bytes, peak.reserved or 0)
        if len(self.durations) > WARMUP:
            self.state.step_seconds = statistics.median(self.durations[WARMUP:])
            self.state.tokens_per_second = self.tokens / self.seconds
