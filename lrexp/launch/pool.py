"""Runs a list of jobs, so many at a time, each in a process of its own with a device of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from lrexp.engine import process
from lrexp.launch.job import Job

TICK = 0.1
Tell = Callable[[Job], None]
Tick = Callable[[bool], None]  # is told whether the pool is stopping


@dataclass
class Worker:
    """A running job, its process and its place in the pool."""

    job: Job
    process: subprocess.Popen[str]
    errors: IO[str]
    slot: int
    begin: float = field(default_factory=time.monotonic)


class Pool:
    """`size` workers. `tell` is called when a job's state has changed, `tick` a few times a second."""

    def __init__(self, size: int, devices: list[str], fail_fast: bool, tell: Tell, tick: Tick) -> None:
        self.size, self.devices, self.fail_fast = size, devices, fail_fast
        self.tell, self.tick = tell, tick
        self.workers: list[Worker] = []
        self.stopping = False

    def run(self, jobs: list[Job], retry: bool) -> None:
        """Brings every job to an end. After `stop`, running jobs write checkpoints and waiting ones stay waiting."""
        waiting = [job for job in jobs if not self._settled(job, retry)]
        while self.workers or (waiting and not self.stopping):
            while waiting and len(self.workers) < self.size and not self.stopping:
                job = next((j for j in waiting if not j.is_held()), None)
                if job is None:
                    break  # all that wait are held by other processes: look again later
                waiting.remove(job)
                if not self._settled(job, retry and job.attempts == 0):
                    self._start(job)
            self._collect()
            self.tick(self.stopping)
            time.sleep(TICK)

    def stop(self) -> None:
        """Asks every running job for a checkpoint and starts no other."""
        self.stopping = True
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends every running job at once."""
        for worker in self.workers:
            worker.process.kill()

    def _settled(self, job: Job, retry: bool) -> bool:
        """Whether there is nothing to do: the run is as far as it shall come, or has failed and is not tried again."""
        state = job.look()
        if state in ("finished", "paused") or (state == "failed" and not retry):
            job.state = state
            self.tell(job)
            return True
        return False

    def _start(self, job: Job) -> None:
        taken = {worker.slot for worker in self.workers}
        slot = next(i for i in range(self.size) if i not in taken)
        environment = dict(os.environ)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = share(self.devices, slot, job.spec.hardware.processes)
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by _collect)
        started = process.start(job.folder, job.text(), job.until, environment, errors)
        job.state, job.attempts = "running", job.attempts + 1
        self.workers.append(Worker(job, started, errors, slot))
        self.tell(job)

    def _collect(self) -> None:
        for worker in [w for w in self.workers if w.process.poll() is not None]:
            self.workers.remove(worker)
            job = worker.job
            job.seconds = time.monotonic() - worker.begin
            job.state = _outcome(job, worker)
            worker.errors.close()
            self.tell(job)
            if job.state == "failed" and self.fail_fast and not self.stopping:
                self.stop()


def share(devices: list[str], slot: int, processes: int) -> str:
    """The devices of a place in a pool, as CUDA_VISIBLE_DEVICES names them: one for each process of a run."""
    return ",".join(devices[i % len(devices)] for i in range(slot * processes, (slot + 1) * processes))


def _outcome(job: Job, worker: Worker) -> str:
    """What became of a job whose process has ended."""
    if job.look() == "finished":  # a kill may come when all is written
        return "finished"
    state, reason = process.ending(worker.process.returncode, worker.errors)
    if not (state == "failed" and job.look() == "failed"):
        job.error = reason
    return state
