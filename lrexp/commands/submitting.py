"""`lrexp train -m --launcher slurm`: submits the runs of a sweep and leaves. Its help is part of train's."""

from __future__ import annotations

import shlex
from pathlib import Path

from lrexp.commands.sweep import SweepOptions, list_jobs, print_ended
from lrexp.engine.folder import OUTPUTS
from lrexp.engine.identify import resolve
from lrexp.engine.terminal import console
from lrexp.launch import slurm
from lrexp.launch.cluster import elsewhere, refuse_lacking, submit
from lrexp.launch.job import Job, jobs
from lrexp.report.render import render
from lrexp.spec.run_spec import RunSpec


def submitted_sweep(specs: list[tuple[RunSpec, str]], output_dir: str | None, options: SweepOptions) -> int:
    """Submits what is not finished, queued or running; 0 if it could, or if all are finished, 1 if one has failed."""
    slurm.read(options.slurm)
    refuse_lacking(options.launcher)
    found = jobs(specs, output_dir, resolve=elsewhere if options.launcher == "slurm" else resolve)
    if options.dry_run:
        list_jobs(found, options.format)
        return 0
    root = Path(output_dir) if output_dir else OUTPUTS
    submission = submit(found, options.launch(), root)
    if submission is None and all(job.state in ("finished", "failed") for job in found):
        return print_ended(found, options.format)
    rows = [{"run": job.label, "folder": str(job.folder), "state": job.state} for job in found]
    render(["run", "folder", "state"], rows, options.format, title=f"{len(found)} runs")
    tell(found, submission.jobs if submission else (), len(submission.runs) if submission else 0, root)
    return 0


def tell(found: list[Job], ids: tuple[str, ...], count: int, root: Path) -> None:
    """Says what was submitted under which id, what was not, and how to see what becomes of it."""
    at_it, failed = (sum(job.state in states for job in found) for states in (("queued", "running"), ("failed",)))
    parts = [f"{count} run{'s' * (count > 1)} submitted as job {', '.join(ids)}"] if count else []
    parts += [f"{at_it - count} queued or running before"] if at_it > count else []
    parts += [f"{failed} failed, left alone without --retry"] if failed else []
    say = console()
    say.print("; ".join(parts), soft_wrap=True, markup=False)
    say.print(f"lrexp status {shlex.quote(str(root))}", soft_wrap=True, markup=False)
