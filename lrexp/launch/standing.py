"""Where the runs of a sweep stand, by their folders, the submissions' records and the scheduler. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrexp.launch.record import Submission
from lrexp.launch.scheduler import Element, Living
from lrexp.report.collect import SPEC, Run, last_step, read_run

LOG = "log.txt"
TAIL = 8192  # bytes at the end of a log that surely hold its last line
LOST = "its job is gone without a word"


@dataclass(frozen=True)
class Standing:
    """A run's state: queued, running, finished, failed, interrupted, paused, damaged or lost (its job is gone)."""

    folder: Path
    state: str
    step: int | None
    steps: int | None
    job: str = ""
    node: str = ""
    last: str = ""


def submitted(submissions: Sequence[Submission], living: Living) -> dict[str, Standing]:
    """Every submitted run by the real path of its folder, as its latest submission has it."""
    found = {}
    for submission in submissions:
        elements = living.get(submission.place, {})
        for number, run in enumerate(submission.runs):
            standing = stand(submission, number, elements.get(run.element))
            found[os.path.realpath(standing.folder)] = standing
    return found


def stand(submission: Submission, number: int, element: Element | None) -> Standing:
    """Where a run of a submission stands; `element` is the job that takes it, None where that is over."""
    folder, entry, word = submission.folder(number), submission.runs[number], submission.word(number)
    run = read_run(folder) if (folder / SPEC).exists() else Run(folder, "waiting")
    state, reason = _state(run, element, word.state if word else ""), ""
    if state == "failed":
        reason = run.reason or (word.reason if word else "")
    elif state == "interrupted" and word:
        reason = word.reason
    elif state == "lost":
        error = last_line(submission.log(word.job), "error:") if word else ""
        reason = f"{LOST}: {error}" if error else LOST
    elif state == "damaged":
        reason = run.reason or ""
    job = (element.job if element else "") or (word.job if word else "")
    node = (word.node if word else "") or (element.node if element else "")
    step = entry.steps if state == "finished" else run.step
    last = reason or last_line(folder / LOG) or last_line(submission.errors(number))
    return Standing(folder, state, step, entry.steps, job, node, last)


def unsubmitted(folder: Path) -> Standing:
    """Where a run stands that a serial sweep, a pool or `lrexp train` has begun."""
    run = read_run(folder)
    step = last_step(folder) if run.status == "finished" else run.step
    steps = step if run.status == "finished" else run.steps
    return Standing(folder, run.status, step, steps, last=run.reason or last_line(folder / LOG))


def last_line(log: Path, having: str = "") -> str:
    """The last line of a log that is not empty and has some text; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip() and having in line), "")


def _state(run: Run, element: Element | None, word: str) -> str:
    """The folder has the first say where it is sure, then the scheduler, then the process that took the run."""
    if run.status in ("finished", "running", "damaged"):
        return run.status
    if element is not None:
        if word == "failed" or (word == "interrupted" and element.has_begun):
            return word  # the job is at its other runs
        return "running" if word == "running" and element.has_begun else "queued"
    if run.status in ("failed", "paused"):
        return run.status
    return word if word in ("failed", "interrupted") else "lost"
