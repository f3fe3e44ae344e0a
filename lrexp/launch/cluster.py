"""Hands the runs of a sweep to a scheduler and leaves: SLURM, or processes of this machine that stay, by submitit.

submitit writes the array's script, and its handler of the signal before the time limit is the one that clusters are
used to: it asks our `Task` for a checkpoint and requeues the job. It is the same with its local executor, so that what
is tested without a cluster is what runs on one. In return submitit's own files of a job are pickles (see task.py).
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from lrexp.engine import folder as folders
from lrexp.launch import record, slurm
from lrexp.launch.job import Job
from lrexp.launch.pool import share
from lrexp.launch.record import Entry, Submission
from lrexp.launch.scheduler import living
from lrexp.launch.standing import Standing, submitted
from lrexp.launch.sweep import Launch, gpus, workers
from lrexp.launch.task import Task
from lrexp.spec.errors import InputError

EVER = 10**9  # of requeues, and minutes of a process that no one limits: Task ends what comes no further
SIGNAL = "SUBMITIT_PREEMPT_SIGNAL"
INSTALL = 'pip install "lrexp[cluster]"'


def elsewhere(device: str) -> torch.device:
    """As `identify.resolve`, for a run on another machine, whatever is here. Raises InputError for `auto`."""
    if device == "auto":
        raise InputError("hardware.device=auto: say what the cluster's nodes have, hardware=cuda or hardware=cpu")
    return torch.device(device)


def refuse_lacking(launcher: str) -> None:
    """Raises InputError where submitit or SLURM is not here."""
    try:
        import_submitit()
    except ImportError:
        raise InputError(f"--launcher {launcher} needs submitit: {INSTALL}") from None
    if launcher == "slurm":
        lacking = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
        if lacking:
            raise InputError(f"--launcher slurm: {lacking[0]} is not here; give the line where jobs are submitted")


def submit(jobs: list[Job], how: Launch, root: Path) -> Submission | None:
    """Submits what is neither finished, failed (but for --retry), queued nor running; sets every job's state.

    Returns None where that is nothing. Raises InputError.
    """
    given = slurm.read(how.slurm)
    with folders.held(root / record.FOLDER, "another process is submitting runs right now"):
        submissions = record.submissions(root)
        alive = living(submissions)
        known = submitted(submissions, alive)
        taken = [job for job in jobs if is_wanted(job, known.get(os.path.realpath(job.folder)), how.retry)]
        remove_pickles([submission for submission in submissions if not alive.get(submission.place)])
        if not taken:
            return None
        size = len(taken) if how.launcher == "slurm" else min(len(taken), workers(taken, how, gpus(taken)))
        runs = [
            Entry(os.path.relpath(job.folder, root), job.label, job.steps, number % size)
            for number, job in enumerate(taken)
        ]
        submission = record.begin(root, how.launcher, runs, [job.text() for job in taken])
        if how.launcher == "slurm":
            ids = _in_slurm(submission, slurm.parameters(taken, given, submission.name, how.jobs))
        else:
            ids = _on_this_machine(submission, taken, size)
        for job in taken:
            job.state = "queued"
        return submission.with_jobs(ids)


def is_wanted(job: Job, standing: Standing | None, retry: bool) -> bool:
    """Whether a job is to be submitted; sets its state where it is not."""
    state = job.look()
    is_alive = standing is not None and standing.state in ("queued", "running")
    if state != "finished" and (is_alive or job.is_held()):
        state = standing.state if standing and not job.is_held() else "running"
    elif state not in ("finished", "failed") or (state == "failed" and retry):
        return True
    job.state = state
    return False


def remove_pickles(submissions: list[Submission]) -> None:
    """Removes submitit's own files of jobs that are over; their logs stay."""
    for submission in submissions:
        for file in submission.place.glob("*.pkl"):
            file.unlink(missing_ok=True)


def import_submitit() -> Any:
    """submitit, with the signal that lrexp's runs know: it reads the name as it is imported. Raises ImportError."""
    os.environ[SIGNAL] = "USR1"
    import submitit

    return submitit


def _in_slurm(submission: Submission, parameters: dict[str, Any]) -> list[str]:
    submitit = import_submitit()
    executor = submitit.SlurmExecutor(folder=submission.place, max_num_timeout=EVER)
    executor.update_parameters(**parameters)
    tasks = [Task(str(submission.place), [number]) for number in range(len(submission.runs))]
    try:
        with redirect_stderr(io.StringIO()):  # submitit repeats there what is in its error
            found = executor.submit_array(tasks)
    except submitit.core.utils.FailedJobError as error:
        record.forget(submission)
        said = [line for line in str(error).splitlines() if line.strip()] or ["no reason"]
        raise InputError(f"sbatch refuses the sweep: {said[-1].rpartition('error: ')[2].strip()}") from None
    return [found[0].job_id.partition("_")[0]]


def _on_this_machine(submission: Submission, jobs: list[Job], size: int) -> list[str]:
    submitit = import_submitit()
    executor = submitit.LocalExecutor(folder=submission.place, max_num_timeout=EVER)
    executor.update_parameters(timeout_min=EVER)
    devices, most = gpus(jobs), max(job.spec.hardware.processes for job in jobs)
    tasks = [
        Task(str(submission.place), list(range(slot, len(jobs), size)), share(devices, slot, most) if devices else None)
        for slot in range(size)
    ]
    with _staying():
        return [job.job_id for job in executor.submit_array(tasks)]


@contextmanager
def _staying() -> Iterator[None]:
    """Processes that are started in the block outlive the terminal: they hear of no hang-up and write nowhere."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    kept = [os.dup(number) for number in (1, 2)]
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
        for number, handler in before.items():
            signal.signal(number, handler)
