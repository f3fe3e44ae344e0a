"""lrexp status DIR... [--format rich|md|csv|json]

One row for every run in DIR, at any depth, as it stands now: what a launcher has submitted, and what was begun here.

    queued        the scheduler has its job, which has not come to it yet, or was requeued
    running       some process is at it
    finished      its result is there
    failed        it ended with an error, which the row shows; --retry tries it again
    interrupted   it was asked to stop and has written a checkpoint, or its process was ended
    paused        it stands still at a tuning's rung
    lost          its job is gone without a word: a node, a kill, a time limit without notice
    damaged       its files cannot be read

The line that began the sweep goes on with what is interrupted or lost. `step` is the last recorded one; `last` is why a
run has not finished, else the last line of its log. Ends with 0, or with 2 where a DIR cannot be read or holds no run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lrexp.commands.options import Parser
from lrexp.launch.record import Submission, roots, submissions
from lrexp.launch.scheduler import Element, Living, living
from lrexp.launch.standing import Standing, submitted, unsubmitted
from lrexp.report.collect import find
from lrexp.report.render import render
from lrexp.spec.errors import InputError

COLUMNS = ("run", "state", "step", "steps", "job", "node", "last")


def main(arguments: list[str]) -> int:
    """Prints the table. Raises InputError if there is nothing to show."""
    parser = Parser("status")
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    rows = []
    for directory in options.directories:
        found = standings(directory)
        if not found:
            raise InputError(f"{directory}: no run in it, and none was submitted from it")
        rows += [row(directory, standing) for standing in found]
    counts = {state: sum(line["state"] == state for line in rows) for state in dict.fromkeys(r["state"] for r in rows)}
    title = f"{len(rows)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    render(COLUMNS, rows, options.format, title)
    return 0


def standings(directory: Path) -> list[Standing]:
    """All runs below a folder, those that were submitted in the order in which they were."""
    begun = find(directory)
    known = [submission for root in roots(directory) for submission in submissions(root)]
    top = os.path.realpath(directory)
    found = {
        real: standing
        for real, standing in submitted(known, alive(known)).items()
        if os.path.commonpath([real, top]) == top
    }
    for folder in begun:
        found.setdefault(os.path.realpath(folder), unsubmitted(folder))
    return list(found.values())


def alive(known: Sequence[Submission]) -> Living:
    """What the schedulers still have; where one does not answer, that is said, and the runs' own last words stand."""
    try:
        return living(known)
    except InputError as error:
        print(f"lrexp status: {error}", file=sys.stderr)
        return {each.place: {run.element: Element("", "", True) for run in each.runs} for each in known}


def row(directory: Path, standing: Standing) -> dict[str, object]:
    """A run's line of the table."""
    name = os.path.relpath(os.path.realpath(standing.folder), os.path.realpath(directory))
    steps = {"step": standing.step, "steps": standing.steps}
    where = {"job": standing.job, "node": standing.node, "last": standing.last}
    return {"run": name, "state": standing.state, **steps, **where}
