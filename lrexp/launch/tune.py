"""Tuning by successive halving: the values of one key run side by side, and at every rung the better ones go on.

Jamieson and Talwalkar 2016 (arXiv 1502.07943), with all runs of a rung compared at once: who goes on does not depend on
which run ends first, as it does in asynchronous halving, so that the same line gives the same table. A run that goes on
does so from its checkpoint and ends with the bytes of a run that never stood still; what ends at a rung keeps its
record. Values are compared on the split to select on, at the tuning's own seed; the other seeds run with the value that
is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lrexp.engine import folder as folders
from lrexp.launch.job import Job
from lrexp.launch.sampler import Sampler
from lrexp.report.tuned import SPLITS
from lrexp.spec import rungs
from lrexp.spec.result import LOWER_IS_BETTER
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.tuning import Tuning, fractions

Run = Callable[[list[Job]], list[Job]]  # brings jobs to an end, or to the step where they stand still


@dataclass
class Trial:
    """One value and its run."""

    value: float
    job: Job
    metric: str = ""
    measured: float | None = None  # at the last rung, None where there is nothing to compare
    loss: float | None = None  # there

    def goodness(self) -> tuple[float, float]:
        """The larger the better; a run without a value is behind all others.

        Of equal values the lower loss is better: early in a run many a classifier still names one class alone.
        """
        if self.measured is None:
            return -math.inf, 0.0
        loss = math.inf if self.loss is None else self.loss
        return -self.measured if self.metric in LOWER_IS_BETTER else self.measured, -loss


@dataclass
class Family:
    """Runs that differ in the tuned key alone. `make` gives the runs of values at the tuning's seed, checked."""

    label: str
    sampler: Sampler
    make: Callable[[list[float]], list[Job]]
    spec: RunSpec
    trials: list[Trial] = field(default_factory=list)  # all so far
    going_on: list[Trial] = field(default_factory=list)
    winners: list[Trial] = field(default_factory=list)  # of the rounds

    def ask(self) -> bool:
        """Begins the next round; False after the last."""
        values = self.sampler.ask()
        self.going_on = [Trial(value, job) for value, job in zip(values, self.make(values), strict=True)]
        self.trials += self.going_on
        return bool(values)

    def cut(self, halving: int) -> None:
        """Lets one in `halving` of the runs at a rung go on, at least one; the first of equal values is before."""
        for trial in self.going_on:
            if rung := standing(trial.job):
                trial.metric, trial.measured, trial.loss = rung["metric"], rung["value"], rung["loss"]
            else:
                trial.measured = trial.loss = None
        ranked = sorted(self.going_on, key=Trial.goodness, reverse=True)
        kept = [trial for trial in ranked[: math.ceil(len(ranked) / halving)] if trial.job.state != "failed"]
        for trial in self.going_on:
            if trial not in kept:
                self.sampler.tell(trial.value, trial.metric, trial.measured, has_ended=False)
        self.going_on = [trial for trial in self.going_on if trial in kept]

    def shown(self) -> str:
        """Who goes on from a rung, for a reader."""
        found = [
            f"{trial.value:g} ({trial.metric} {trial.measured:.4g}, loss {trial.loss or math.nan:.4g})"
            for trial in self.going_on
            if trial.measured is not None
        ]
        return f"{', '.join(found)} {'go' if len(found) > 1 else 'goes'} on" if found else "none goes on"

    def close(self) -> None:
        """Takes the last of a round, its run at its end."""
        for trial in self.going_on:
            self.sampler.tell(trial.value, trial.metric, trial.measured, has_ended=True)
        self.winners += self.going_on

    def best(self) -> Trial | None:
        """The value that is chosen; None where every run has failed."""
        return max(self.winners, key=Trial.goodness, default=None)

    def spent(self) -> float:
        """What the trials have cost up to their last rungs, in whole runs."""
        return sum(steps[-1]["step"] / t.job.steps for t in self.trials if (steps := rungs.read(t.job.folder)))


def tune(families: list[Family], tuning: Tuning, run: Run, say: Callable[[str], None]) -> None:
    """Finds each family's best value, all families rung by rung together. Raises Interrupted after a signal.

    The best of every round, and with it the best of all, has come as far as the last rung.
    """
    asking = list(families)
    while asking := [family for family in asking if family.ask()]:
        for share in fractions(max(len(family.going_on) for family in asking), tuning.halving):
            trials = [trial for family in asking for trial in family.going_on]
            for trial in trials:
                trial.job.until = max(1, math.ceil(share * trial.job.steps))
            run([trial.job for trial in trials])
            for family in asking:
                family.cut(tuning.halving)
                say(f"{family.label}, {share:.3g} of the steps: {family.shown()}")
        for family in asking:
            family.close()


def standing(job: Job) -> dict[str, Any] | None:
    """How good a run was at its rung; at its end, where it was finished before; None where it has not come there."""
    if job.until is None:
        return None
    return rungs.reached(job.folder, job.until) or _ended(job)


def _ended(job: Job) -> dict[str, Any] | None:
    result = folders.finished(job.folder) or {}
    metric, metrics = result.get("primary_metric"), result.get("metrics", {})
    for split in SPLITS:
        if split != result.get("evaluated_on") and f"{split}_{metric}" in metrics:
            return {"metric": metric, "value": metrics[f"{split}_{metric}"], "loss": metrics.get(f"{split}_loss")}
    return None
