"""What is known of runs that were submitted to a scheduler: files below `.launch` in the sweep's folder. No torch.

.launch/20260131-094500-1f2e3d/     one submission
    launch.json                     the launcher, the job ids and the runs, in the order of their numbers
    0000.yaml                       a run's frozen spec: nothing that is edited later reaches it
    0000.json                       the last word of the process that took the run: state, reason, node
    0000.err                        what the run's process wrote to standard error
    4711_0_0_log.err, ...           the scheduler's own files
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lrexp.engine.files import write_json, write_text
from lrexp.spec.errors import InputError

FOLDER = ".launch"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A run of a submission; `folder` is relative to the sweep's folder, `element` numbers the job that takes it."""

    folder: str
    label: str
    steps: int
    element: int


@dataclass(frozen=True)
class Word:
    """The last word on a run by the process that took it: running, queued (again), or how it ended."""

    state: str
    reason: str
    node: str
    job: str


@dataclass(frozen=True)
class Submission:
    """Runs that were submitted together. `jobs` are the ids by element: of an array that of the whole."""

    place: Path
    launcher: str
    host: str
    runs: tuple[Entry, ...]
    jobs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the scheduler calls the job: one name for one submission, so that it is found without its id."""
        return f"lrexp-{self.place.name}"

    def folder(self, number: int) -> Path:
        """The folder of a run."""
        return self.place.parent.parent / self.runs[number].folder

    def spec(self, number: int) -> Path:
        """The file of a run's frozen spec."""
        return self.place / f"{number:04d}.yaml"

    def errors(self, number: int) -> Path:
        """The file of a run's standard error."""
        return self.place / f"{number:04d}.err"

    def log(self, job: str) -> Path:
        """The file in which the scheduler keeps the standard error of a job, or of one of an array."""
        return self.place / f"{job}_0_log.err"

    def word(self, number: int) -> Word | None:
        """The last word on a run; None before the first, or where it is damaged."""
        with suppress(OSError, ValueError, TypeError):
            return Word(**json.loads(self._words(number).read_text(encoding="utf-8")))
        return None

    def say(self, number: int, state: str, job: str, reason: str = "") -> None:
        """Leaves a word on a run; a full disk is no failure of the run."""
        with suppress(OSError):
            write_json(self._words(number), asdict(Word(state, reason, socket.gethostname(), job)))

    def with_jobs(self, jobs: list[str]) -> Submission:
        """The submission with its job ids, which are written down."""
        found = replace(self, jobs=tuple(jobs))
        found.write()
        return found

    def write(self) -> None:
        """Writes launch.json."""
        known = {"launcher": self.launcher, "host": self.host, "jobs": list(self.jobs)}
        write_json(self.place / "launch.json", {"format": FORMAT, **known, "runs": [asdict(run) for run in self.runs]})

    def _words(self, number: int) -> Path:
        return self.place / f"{number:04d}.json"


def begin(root: Path, launcher: str, runs: list[Entry], specs: list[str]) -> Submission:
    """Writes down what is about to be submitted, and freezes its specs, which are texts in the order of the runs.

    Raises InputError where the disk takes nothing, and leaves nothing.
    """
    place = root.absolute() / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    submission = Submission(place, launcher, socket.gethostname(), tuple(runs))
    try:
        place.mkdir(parents=True)
        for number, text in enumerate(specs):
            write_text(submission.spec(number), text)
        submission.write()
    except OSError as error:
        forget(submission)
        raise InputError(f"{place}: the specs cannot be written there ({error.strerror})") from error
    return submission


def forget(submission: Submission) -> None:
    """Removes the record of what could not be submitted, and folders that are empty then."""
    shutil.rmtree(submission.place, ignore_errors=True)
    with suppress(OSError):
        submission.place.parent.rmdir()
        submission.place.parent.parent.rmdir()


def read(place: Path) -> Submission | None:
    """The submission in a folder; None where its record is not there, or not whole."""
    try:
        found = json.loads((place / "launch.json").read_text(encoding="utf-8"))
        runs = tuple(Entry(**run) for run in found["runs"])
        return Submission(place, found["launcher"], found["host"], runs, tuple(found["jobs"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def submissions(root: Path) -> list[Submission]:
    """The submissions of a sweep's folder, the earliest first."""
    found = map(read, sorted((root / FOLDER).glob("*/")))
    return [submission for submission in found if submission is not None]


def roots(directory: Path) -> Iterator[Path]:
    """Folders with submissions: those at any depth below `directory`, itself included, and the nearest above it."""
    above = next((p for p in directory.absolute().parents if (p / FOLDER).is_dir()), None)
    if above is not None:
        yield above
    for place, folders, _ in os.walk(directory):
        if FOLDER in folders:
            yield Path(place)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "checkpoints"]
