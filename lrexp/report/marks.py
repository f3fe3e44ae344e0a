"""What a reader of a row must know besides its numbers: how its runs ended, how they are less alike than they look."""

from __future__ import annotations

from collections.abc import Sequence

from lrexp.report.collect import Run
from lrexp.report.group import Group
from lrexp.report.paper import COPIED

UNFINISHED = ("failed", "running", "interrupted", "paused", "damaged")
FEW_SEEDS = 3  # a row with fewer is marked


def status(group: Group) -> str:
    """The status that all runs of the row share, else "partial"."""
    found = {run.status for run in group.runs}
    return found.pop() if len(found) == 1 else "partial"


def marks(group: Group) -> list[str]:
    """Words beside the numbers: unfinished runs first, then what the runs say of themselves, then how they differ."""
    found = unfinished(group)
    found += [seed for seed in (_repeated(group), _undefined(group)) if seed]
    said = dict.fromkeys(mark for run in group.runs if run.result is not None for mark in run.result["marks"])
    found += said
    results = [run.result for run in group.finished if run.result is not None]
    if not _has(found, "versions differ") and any(result["versions"] != results[0]["versions"] for result in results):
        found.append("versions differ")
    devices = {(result["hardware"]["device"], result["hardware"]["device_name"]) for result in results}
    if len(devices) > 1:
        found.append("hardware differs")
    return found


def unfinished(group: Group) -> list[str]:
    """How the runs ended that have not finished."""
    return [mark for status in UNFINISHED if (mark := _unfinished(status, group.with_status(status)))]


def evidence(group: Group, rates_tried: int) -> list[str]:
    """How little stands behind a row's mean: one learning rate, few seeds. Without steps no rate matters."""
    if group.summary is None:
        return []
    untuned = rates_tried < 2 and group.identity.get("training.max_steps") != 0
    return ["untuned"] * untuned + [f"fewer than {FEW_SEEDS} seeds"] * (group.summary.n < FEW_SEEDS)


def beside_paper(is_there: bool, changed: Sequence[str]) -> list[str]:
    """That a paper's value stands beside a row, and in which settings the row's runs depart from the experiment's."""
    if not is_there:
        return []
    return [f"reported value {COPIED}"] + [f"settings changed: {', '.join(changed)}"] * bool(changed)


def brief(mark: str) -> str:
    """A mark without its particulars."""
    return mark.partition(":")[0]


def failures(group: Group) -> list[dict[str, object]]:
    """Where and why runs failed, or cannot be read."""
    return [
        {"run": str(run.folder), "status": run.status, "step": run.step, "error": run.reason}
        for run in group.runs
        if run.status in ("failed", "damaged")
    ]


def _unfinished(status: str, runs: list[Run]) -> str:
    if not runs:
        return ""
    if status == "damaged":
        return f"{len(runs)} damaged"
    if status == "failed":
        at = [str(run.step) for run in runs if run.step is not None]
        steps = f" ({'step' if len(at) == 1 else 'steps'} {', '.join(at)})" if at else ""
        return f"{len(runs)} failed{steps}"
    progress = ", ".join(f"{run.step or 0}/{run.steps}" if run.steps else f"step {run.step or 0}" for run in runs)
    return f"{status} {progress}" if len(runs) == 1 else f"{len(runs)} {status} ({progress})"


def _repeated(group: Group) -> str:
    """A seed that finished more than once counts once: a repeat is no further draw."""
    results = [run.result for run in group.with_status("finished") if run.result is not None]
    by_seed: dict[int, list[dict[str, float | None]]] = {}
    for result in results:
        by_seed.setdefault(result["seed"], []).append(result["metrics"])
    seeds = {seed: metrics for seed, metrics in by_seed.items() if len(metrics) > 1}
    if not seeds:
        return ""
    unequal = any(found != metrics[0] for metrics in seeds.values() for found in metrics)
    which = ", ".join(map(str, sorted(seeds)))
    return f"seed {which} repeated{' with other metrics' if unequal else ''}, counted once"


def _undefined(group: Group) -> str:
    seeds = [str(run.result["seed"]) for run in group.finished if run.result and run.result["seed"] not in group.values]
    return f"{group.metric} undefined for seed {', '.join(seeds)}" if seeds else ""


def _has(marks: list[str], beginning: str) -> bool:
    return any(mark.startswith(beginning) for mark in marks)
