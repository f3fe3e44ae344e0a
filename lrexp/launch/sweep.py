"""A sweep from its words to its exit code: everything is composed and frozen before the first run starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lrexp.engine.stop import install, restore
from lrexp.launch.job import Job
from lrexp.launch.pool import Pool
from lrexp.launch.view import View
from lrexp.spec.errors import Interrupted


@dataclass(frozen=True)
class Launch:
    """How a sweep's runs are started."""

    launcher: str = "serial"  # serial, pool, slurm or submitit-local
    jobs: int | None = None  # workers of a pool; None: one per GPU, or as many as the threads of a run fit the cores
    fail_fast: bool = False
    retry: bool = False
    slurm: tuple[str, ...] = ()  # KEY=VALUE for sbatch


def launch(jobs: list[Job], how: Launch) -> list[Job]:
    """Runs the jobs; returns them with what became of them. Raises Interrupted after a signal."""
    devices = gpus(jobs)
    size = workers(jobs, how, devices)
    with View(jobs, size) as view:
        pool = Pool(size, devices, how.fail_fast, view.tell, view.tick)
        with _stopping(pool) as stopped:
            pool.run(jobs, how.retry)
    if stopped:
        done = sum(job.state == "finished" for job in jobs)
        raise Interrupted(f"stopped by {stopped[0]}: {done} of {len(jobs)} runs are finished; the same line goes on")
    return jobs


def gpus(jobs: list[Job]) -> list[str]:
    """The CUDA devices that a pool shares out, by their numbers; none for runs on the CPU."""
    import torch

    if not any(job.spec.hardware.device == "cuda" for job in jobs):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def workers(jobs: list[Job], how: Launch, devices: list[str]) -> int:
    """How many runs go on at a time."""
    if how.launcher == "serial":
        return 1
    if how.jobs is not None:
        return how.jobs
    most = max(job.spec.hardware.processes for job in jobs)
    if devices:
        return max(1, len(devices) // most)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (most * max(job.spec.hardware.threads for job in jobs)))


@contextmanager
def _stopping(pool: Pool) -> Iterator[list[str]]:
    """Within the block the signals stop the pool instead of the process; the list names the signals that came.

    A second SIGINT ends the running jobs at once.
    """
    came: list[str] = []

    def take(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            pool.kill()
        came.append(signal.Signals(number).name)
        pool.stop()

    before = install(take)
    try:
        yield came
    finally:
        restore(before)
