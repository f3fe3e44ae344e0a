"""What a job does: one run of a submission, or on one machine several, one after another. Imports no torch.

submitit brings a `Task` to the node as a pickle of its own: a folder's name and some numbers. It lies in the
submission's hidden folder, is read by the job alone, and the next submission in the sweep's folder removes it; specs,
results and checkpoints stay free of pickles.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrexp.engine.process import ending, start
from lrexp.launch.record import Submission, read
from lrexp.report.collect import last_step, locked, read_run

TICK = 0.2
MOST_IDLE = 3  # requeues in a row that have brought a run no step further


class Task:
    """The runs of one element of a submission; `devices` is CUDA_VISIBLE_DEVICES where no scheduler sets it."""

    def __init__(self, place: str, numbers: list[int], devices: str | None = None, idle: int = 0) -> None:
        self.place, self.numbers, self.devices, self.idle = place, numbers, devices, idle
        self.current: tuple[Submission, int, subprocess.Popen[str], int | None] | None = None  # run, worker, first step

    def __call__(self) -> None:
        """Brings the runs to their ends; the exit code is 1 where one is not finished, so that the job has failed."""
        submission = read(Path(self.place))
        if submission is None:
            raise SystemExit(f"{self.place}: the submission's record is gone")
        states = [self._bring(submission, number) for number in self.numbers]
        if any(state != "finished" for state in states):
            raise SystemExit(1)

    def checkpoint(self) -> Any:
        """Before the time limit, at the signal that submitit catches: the run writes a checkpoint, the job is requeued.

        Returns what runs after that; None, which is no requeue, where the last ones have led nowhere.
        """
        from submitit.helpers import DelayedSubmission

        if self.current is None:
            return DelayedSubmission(Task(self.place, self.numbers, self.devices, self.idle))
        submission, number, worker, first = self.current
        with suppress(ProcessLookupError):
            worker.send_signal(signal.SIGUSR1)
        with suppress(ChildProcessError):  # it was waited for as the signal came
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        idle = self.idle + 1 if last_step(submission.folder(number)) == first else 0
        if idle >= MOST_IDLE:
            submission.say(
                number, "failed", job(), f"{idle} times in a row its time ended before it was a step further"
            )
            return None
        submission.say(number, "queued", job(), "requeued")
        return DelayedSubmission(Task(self.place, self.numbers, self.devices, idle))

    def _bring(self, submission: Submission, number: int) -> str:
        """One run from where it stands to its end; returns the state that it is in then."""
        folder, word = submission.folder(number), submission.word(number)
        if folder.is_dir() and read_run(folder).status == "finished":
            return "finished"
        if word is not None and word.state == "failed":
            return "failed"  # before a requeue
        if locked(folder):
            submission.say(number, "interrupted", job(), "another process has its folder")
            return "interrupted"
        submission.say(number, "running", job())
        state, reason = self._work(submission, number)
        if read_run(folder).status == "finished":  # a kill may come when all is written
            state, reason = "finished", ""
        submission.say(number, state, job(), reason)
        return state

    def _work(self, submission: Submission, number: int) -> tuple[str, str]:
        """Runs a worker until it ends; returns the run's state and a reason."""
        folder = submission.folder(number)
        environment = dict(os.environ)
        if self.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices
        with submission.errors(number).open("w+", encoding="utf-8", errors="replace") as errors:
            text = submission.spec(number).read_text(encoding="utf-8")
            worker = start(folder, text, None, environment, errors)
            self.current = submission, number, worker, last_step(folder)
            while (code := worker.poll()) is None:  # `wait` would not let `checkpoint` wait too
                time.sleep(TICK)
            self.current = None
            return ending(code, errors)


def job() -> str:
    """The id of the job that this process is part of."""
    from submitit import JobEnvironment

    return JobEnvironment().job_id
