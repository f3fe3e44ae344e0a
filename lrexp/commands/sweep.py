"""`lrexp train -m`: many runs from one line. Its help is part of train's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.commands.words import compose_all
from lrexp.report.render import render
from lrexp.spec.errors import InputError
from lrexp.spec.tuning import split

if TYPE_CHECKING:
    from lrexp.launch.job import Job
    from lrexp.launch.sweep import Launch

LAUNCHERS = ("serial", "pool", "slurm", "submitit-local")
CLUSTER = LAUNCHERS[2:]  # submit and leave


@dataclass(frozen=True)
class SweepOptions:
    """The options of `train -m`."""

    launcher: str = "serial"
    jobs: int | None = None
    dry_run: bool = False
    fail_fast: bool = False
    retry: bool = False
    slurm: Sequence[str] = ()
    format: str = "rich"

    def launch(self) -> Launch:
        """How the runs are started."""
        from lrexp.launch.sweep import Launch

        return Launch(self.launcher, self.jobs, self.fail_fast, self.retry, tuple(self.slurm))


def sweep(words: list[str], options: SweepOptions) -> int:
    """Composes and freezes every run, then launches them; 0 if all are finished, 1 if one has failed."""
    tuning, words = split(words)
    refuse_misfits(options, tuning is not None)
    if tuning is not None:
        from lrexp.commands.tuning import tuned_sweep

        return tuned_sweep(words, tuning, options)
    specs, output_dir = compose_all(words)

    from lrexp.launch.job import jobs
    from lrexp.launch.sweep import launch

    if options.launcher in CLUSTER:
        from lrexp.commands.submitting import submitted_sweep

        return submitted_sweep(specs, output_dir, options)
    found = jobs(specs, output_dir)
    if options.dry_run:
        list_jobs(found, options.format)
        return 0
    ended = launch(found, options.launch())
    return print_ended(ended, options.format)


def list_jobs(jobs: list[Job], format: str) -> None:
    """Prints the runs of a sweep and how they stand."""
    rows = [{"run": job.label, "folder": str(job.folder), "state": job.look()} for job in jobs]
    render(["run", "folder", "state"], rows, format, title=f"{len(jobs)} runs")


def print_ended(ended: list[Job], format: str) -> int:
    """Prints the table of a sweep that has come to its end; 0 if all runs are finished, 1 if one is not."""
    from lrexp.report.collect import read_run
    from lrexp.report.table import print_table

    print_table([read_run(Path(job.folder)) for job in ended if (job.folder / "spec.yaml").exists()], format)
    return 0 if all(job.state == "finished" for job in ended) else 1


def refuse_misfits(options: SweepOptions, is_tuning: bool) -> None:
    """Raises InputError for options that say nothing to the launcher, or that it cannot follow."""
    if options.jobs is not None and options.jobs < 1:
        raise InputError(f"train: --jobs {options.jobs}: it is at least 1")
    if options.jobs is not None and options.launcher == "serial":
        raise InputError("train: --jobs says how many runs go on at a time in a pool; add --launcher pool")
    if options.slurm and options.launcher != "slurm":
        raise InputError("train: --slurm says what sbatch is asked for; add --launcher slurm")
    if options.launcher not in CLUSTER:
        return
    if is_tuning:
        raise InputError(f"train: tune= compares runs as they go, --launcher {options.launcher} leaves; take a pool")
    if options.fail_fast:
        raise InputError(f"train: --fail-fast needs someone waiting, --launcher {options.launcher} leaves; take a pool")
