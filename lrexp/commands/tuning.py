"""`lrexp train tune=KEY`: every method's best value by halving, then all seeds with it. Its help is part of train's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from lrexp.commands.sweep import SweepOptions
from lrexp.commands.words import compose_all
from lrexp.engine.terminal import console
from lrexp.launch.job import Extent, Job, jobs
from lrexp.launch.sampler import TPE, Grid
from lrexp.launch.sweep import launch
from lrexp.launch.tune import Family, tune
from lrexp.report.collect import read_run
from lrexp.report.entry import Options
from lrexp.report.render import render
from lrexp.report.table import print_table
from lrexp.spec import compose
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.sweep import expand, refuse_within
from lrexp.spec.tuning import Tuning, candidates

Jobs = Callable[[list[tuple[RunSpec, str]]], list[Job]]


def tuned_sweep(words: list[str], tuning: Tuning, options: SweepOptions) -> int:
    """Tunes at the first seed, then runs all seeds with what was chosen; 0 if all are finished, 1 if one has failed."""
    families, seeds, runs = families_of(words, tuning)
    if options.dry_run:
        return list_trials(families, options.format)
    ended = tuned(families, tuning, seeds, runs, options)
    trials = [trial.job.folder for each in families for trial in each.trials]
    folders = dict.fromkeys([*trials, *(job.folder for job in ended)])
    found = [read_run(folder) for folder in folders if (folder / "spec.yaml").exists()]
    print_table(found, options.format, options=Options(tuned=(tuning.key,)))
    is_whole = all(each.best() for each in families) and all(job.state == "finished" for job in ended)
    return 0 if is_whole else 1


def tuned_runs(words: list[str], tuning: Tuning, options: SweepOptions) -> list[Job]:
    """The runs of all seeds with the value that is chosen for each spec of the words."""
    families, seeds, runs = families_of(words, tuning)
    return tuned(families, tuning, seeds, runs, options)


def families_of(words: list[str], tuning: Tuning) -> tuple[list[Family], list[str], Jobs]:
    """The families of the words' specs, the words of the seeds, and what makes checked runs of specs."""
    refuse_within(words, ("seed",))
    seeds = [word for line in expand(word for word in words if word.startswith("seed=")) for word in line]
    specs, output_dir = compose_all([*seeds[:1], *(word for word in words if not word.startswith("seed="))])
    extents: dict[str, Extent] = {}

    def runs(specs: list[tuple[RunSpec, str]]) -> list[Job]:
        return jobs(specs, output_dir, extents)

    return [family(spec, label, tuning, runs) for spec, label in specs], seeds, runs


def tuned(families: list[Family], tuning: Tuning, seeds: list[str], runs: Jobs, options: SweepOptions) -> list[Job]:
    """Finds each family's value and runs all seeds with it; says what was chosen and what that has cost."""
    say = partial(console().print, soft_wrap=True)
    tune(families, tuning, lambda found: launch(found, options.launch()), say)
    final = [
        (with_value(each.spec, tuning.key, best.value, seed), f"{each.label} {seed} {leaf(tuning.key)}={best.value:g}")
        for each in families
        if (best := each.best()) is not None
        for seed in seeds or [f"seed={each.spec.seed}"]
    ]
    ended = launch(runs(final), options.launch())
    for each in families:
        best = each.best()
        what = f"{leaf(tuning.key)}={best.value:g}" if best else "nothing, every run has failed"
        tried = f"{len(each.trials)} values tried, {each.spent():.2g} whole runs up to the rungs"
        say(f"{each.label}: {what} chosen ({tried})")
    return ended


def family(spec: RunSpec, label: str, tuning: Tuning, runs: Jobs) -> Family:
    """The runs of one spec that differ in the tuned key. Raises InputError where no range is known."""
    low, high = candidates(tuning, spec)
    is_whole = isinstance(value_of(spec, tuning.key), int) and low == int(low) and high == int(high)
    if tuning.sampler == "tpe":
        sampler: TPE | Grid = TPE(tuning, low, high, is_whole, spec.seed)
    else:
        sampler = Grid(tuning, low, high, is_whole)

    def make(values: list[float]) -> list[Job]:
        named = [(with_value(spec, tuning.key, v), f"{label} {leaf(tuning.key)}={v:g}".strip()) for v in values]
        return runs(named)

    return Family(label, sampler, make, spec)


def with_value(spec: RunSpec, key: str, value: float, *words: str) -> RunSpec:
    """The spec with one value of the tuned key, and with other words."""
    return compose.override(spec, [f"{key}={value}", *words])[0]


def value_of(spec: RunSpec, key: str) -> Any:
    """What stands at a dotted key of a spec; None where nothing does."""
    found: Any = asdict(spec)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def leaf(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def list_trials(families: list[Family], format: str) -> int:
    """Prints the runs that the tuning would begin with."""
    rows = []
    for each in families:
        each.ask()
        rows += [{"run": t.job.label, "folder": str(t.job.folder), "state": t.job.look()} for t in each.trials]
    render(["run", "folder", "state"], rows, format, title=f"{len(rows)} runs to choose from")
    return 0
