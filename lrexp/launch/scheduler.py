"""Which submitted runs a scheduler still has: SLURM's squeue, or the processes of this machine. Imports no torch."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrexp.launch.record import Submission
from lrexp.spec.errors import InputError

PATIENCE = 60.0  # seconds for squeue to answer
RUNNING = ("RUNNING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STOPPED")
OVER = ("COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")
OVER += ("OUT_OF_MEMORY", "PREEMPTED", "REVOKED")  # what is not named waits, in one way or another


@dataclass(frozen=True)
class Element:
    """A job, or one of an array, that is not over: its id, its node once it has one, and whether it has begun."""

    job: str
    node: str
    has_begun: bool


Living = dict[Path, dict[int, Element]]  # by a submission's place and the element's number


def living(submissions: Sequence[Submission]) -> Living:
    """What of the submissions is queued or runs. Raises InputError where the scheduler does not answer."""
    found: Living = {}
    for launcher, look in LOOKS.items():
        if mine := [submission for submission in submissions if submission.launcher == launcher]:
            found |= look(mine)
    return found


def _in_slurm(submissions: Sequence[Submission]) -> Living:
    """Asks by the jobs' names: they are known before the first id is."""
    if shutil.which("squeue") is None:
        raise InputError("squeue is not here: what was submitted to SLURM is seen from a node that has it")
    names = {submission.name: submission for submission in submissions}
    command = ["squeue", "-h", "-r", "-n", ",".join(names), "-o", "%j|%i|%K|%T|%N"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise InputError(f"squeue did not answer within {PATIENCE:.0f} s: try again later") from None
    if done.returncode:
        raise InputError(f"squeue does not answer: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
    found: Living = {submission.place: {} for submission in submissions}
    for line in done.stdout.splitlines():
        name, job, index, state, node = line.split("|")
        if state not in OVER and name in names:
            number = int(index) if index.isdecimal() else 0  # N/A: no array
            found[names[name].place][number] = Element(job, node, state in RUNNING)
    return found


def _on_this_machine(submissions: Sequence[Submission]) -> Living:
    """Looks for the processes; what another machine has is taken to be there, since it cannot be looked at."""
    found: Living = {}
    for submission in submissions:
        is_here = submission.host == socket.gethostname()
        there = {n: job for n, job in enumerate(submission.jobs) if not is_here or _is_controller(int(job))}
        found[submission.place] = {n: Element(job, submission.host, True) for n, job in there.items()}
    return found


def _is_controller(process: int) -> bool:
    """Whether the process is there and one of submitit's, not another that has got its number since."""
    try:
        os.kill(process, 0)
        return b"submitit" in Path(f"/proc/{process}/cmdline").read_bytes()
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # a system without /proc: its number is all that is known
    except OSError:
        return False


LOOKS: dict[str, Callable[[Sequence[Submission]], Living]] = {"slurm": _in_slurm, "submitit-local": _on_this_machine}
