"""`lrexp train tune=KEY`: every method's best value by halving, then all seeds with it. Its help is part of train's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lrexp.commands.sweep import SweepOptions, compose_all
from lrexp.engine.terminal import console
from lrexp.launch.job import Extent, Job, jobs
from lrexp.launch.sampler import TPE, Grid
from lrexp.launch.sweep import launch
from lrexp.launch.tune import Family, tune
from lrexp.report.collect import read_run
from lrexp.report.render import render
from lrexp.report.table import print_table
from lrexp.spec import compose
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.sweep import expand
from lrexp.spec.tuning import Tuning, candidates


def tuned_sweep(words: list[str], tuning: Tuning, options: SweepOptions) -> int:
    """Tunes at the first seed, then runs all seeds with what was chosen; 0 if all are finished, 1 if one has failed."""
    seeds = [word for line in expand(word for word in words if word.startswith("seed=")) for word in line]
    rest = [word for word in words if not word.startswith("seed=")]
    specs, output_dir = compose_all([*rest, *seeds[:1]])
    extents: dict[str, Extent] = {}

    def runs(specs: list[tuple[RunSpec, str]]) -> list[Job]:
        return jobs(specs, output_dir, extents)

    families = [family(spec, label, tuning, runs) for spec, label in specs]
    if options.dry_run:
        return list_trials(families, options.format)
    tune(families, tuning, lambda found: launch(found, options.launch()), partial(console().print, soft_wrap=True))
    chosen = [pair for each, pair in zip(families, specs, strict=True) if each.best() is not None]
    values = [best.value for each in families if (best := each.best()) is not None]
    final = [
        (with_value(spec, tuning.key, value, seed), f"{label} {seed} {leaf(tuning.key)}={value:g}".strip())
        for (spec, label), value in zip(chosen, values, strict=True)
        for seed in seeds or [f"seed={spec.seed}"]
    ]
    ended = launch(runs(final), options.launch())
    for each in families:
        told(each, tuning)
    folders = dict.fromkeys([*(t.job.folder for each in families for t in each.trials), *(job.folder for job in ended)])
    found = [read_run(Path(folder)) for folder in folders if (folder / "spec.yaml").exists()]
    print_table(found, options.format, tuned_keys=[tuning.key])
    is_whole = len(chosen) == len(families) and all(job.state == "finished" for job in ended)
    return 0 if is_whole else 1


def family(spec: RunSpec, label: str, tuning: Tuning, runs: Callable[[list[tuple[RunSpec, str]]], list[Job]]) -> Family:
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

    return Family(label, sampler, make)


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


def told(each: Family, tuning: Tuning) -> None:
    """Says what was chosen and what that has cost."""
    best = each.best()
    what = f"{leaf(tuning.key)}={best.value:g}" if best else "nothing, every run has failed"
    tried = f"{len(each.trials)} values tried, {each.spent():.2g} whole runs in all"
    console().print(f"{each.label}: {what} chosen ({tried})", soft_wrap=True)
