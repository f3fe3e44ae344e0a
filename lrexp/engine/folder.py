"""A run's folder: where it lies, who holds it, what is in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrexp.engine.files import ASIDE
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec

OUTPUTS = Path("outputs")
WEIGHTS = {True: "adapter.safetensors", False: "model.safetensors"}  # what a run kept, by its method's `keeps_base`
DECISIONS = "decisions"


def locate(output_dir: str | None, name: str, method: str, spec_hash: str) -> Path:
    """The folder of a run: `output_dir` itself if given, else outputs/NAME/METHOD-HASH."""
    return Path(output_dir) if output_dir is not None else OUTPUTS / name / f"{method}-{spec_hash}"


def again(folder: Path, spec_hash: str) -> Path:
    """Where a run that is wanted once more goes: the first of DIR, DIR-2, DIR-3, ... that holds no finished run.

    One that a kill or a failure has cut short is gone on with, so that the same line resumes; folders of others are
    left alone.
    """
    place, number = folder, 1
    while place.exists() and (finished(place) is not None or (number > 1 and not _holds(place, spec_hash))):
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    return place


def _holds(folder: Path, spec_hash: str) -> bool:
    """Whether the folder holds a run of this spec."""
    try:
        return RunSpec.read(folder / "spec.yaml")[1].get("spec_hash") == spec_hash
    except InputError:
        return False


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run in this folder, or None."""
    found = result(folder)
    return found if found.get("status") == "finished" else None


def result(folder: Path) -> dict[str, Any]:
    """What result.json holds; empty where there is none, or a damaged one."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_other(folder: Path, spec_hash: str) -> None:
    """Raises InputError if the folder holds another spec's run, or is no folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir={folder}: this is a file, not a folder.")
    if not (folder / "spec.yaml").exists():
        return
    _, facts = RunSpec.read(folder / "spec.yaml")
    held_hash = facts.get("spec_hash")
    if held_hash != spec_hash:
        raise InputError(
            f"{folder} holds another spec's run ({held_hash}; this one is {spec_hash}).\n"
            "Give another output_dir, or delete the folder."
        )


def refuse_unwritable(folder: Path) -> None:
    """Raises InputError if the folder could not be made or written to. Makes nothing."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"output_dir={folder}: {place} is a file, not a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"output_dir={folder}: {place} cannot be written to.")


@contextmanager
def held(folder: Path, busy: str = "another process is running this spec right now") -> Iterator[None]:
    """Makes the folder if need be and holds a lock on it. Raises InputError, with `busy`, if another process has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made or opened ({error.strerror}).") from error
    try:
        if not _lock(descriptor):
            raise InputError(f"{folder}: {busy}.")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours now; tried twice, since a table that looks at a run holds it for an instant.

    A file system without locks counts as not locked.
    """
    for wait in (0.1, 0.0):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(wait)
        except OSError:
            return True
    return False


def sweep_leftovers(folder: Path) -> None:
    """Removes what a kill in the middle of a write has left: files and folders written aside, and nothing else."""
    for place in (folder, folder / "checkpoints"):
        for left in place.glob(f".*{ASIDE}"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
