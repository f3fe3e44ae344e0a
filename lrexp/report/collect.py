"""Finds runs below folders and reads what they say of themselves by spec.yaml, result.json, metrics.jsonl and lock."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrexp.spec import result as schema
from lrexp.spec import rungs
from lrexp.spec.errors import InputError
from lrexp.spec.yaml_text import read_file

SPEC = "spec.yaml"
METRICS = "metrics.jsonl"
TAIL = 65536  # bytes at the end of metrics.jsonl that surely hold its last line


@dataclass(frozen=True)
class Run:
    """One run's folder. `result` is None unless result.json is there and sound; `reason` is the first line of an error.

    `status` is finished, failed, interrupted, paused (at a tuning's rung), running or damaged; `step` of `steps` is how
    far an unfinished run came.
    """

    folder: Path
    status: str
    spec: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    reason: str | None = None
    step: int | None = None
    steps: int | None = None


def collect(directories: Sequence[str | Path]) -> list[Run]:
    """All runs at any depth below `directories`, each once, in the natural order of their paths.

    Raises InputError for a folder that is not there, cannot be read or holds no run.
    """
    folders: dict[str, Path] = {}
    for directory in map(Path, directories):
        for folder in _some(directory):
            real = os.path.realpath(folder)
            folders[real] = min(folders.get(real, folder), folder, key=lambda path: len(path.parts))
    return [read_run(folder) for folder in sorted(folders.values(), key=_natural)]


def read_run(folder: Path) -> Run:
    """What the folder's files say; what cannot be read makes the run "damaged", never an error."""
    spec: dict[str, Any] = {}
    result = None
    try:
        spec = _spec(folder / SPEC)
        result = _result(folder / schema.FILE)
    except InputError as error:
        return Run(folder, "damaged", spec, reason=str(error))
    steps = _max_steps(spec)
    if result is not None and result["status"] == "finished":
        return Run(folder, "finished", spec, result)
    if locked(folder):
        return Run(folder, "running", spec, step=last_step(folder), steps=steps)
    if result is None or result["status"] == "interrupted":
        stands = rungs.read(folder)
        if stands and stands[-1]["step"] >= (last_step(folder) or 0):
            return Run(folder, "paused", spec, result, step=stands[-1]["step"], steps=steps)
        return Run(folder, "interrupted", spec, result, step=last_step(folder), steps=steps)
    lines = result["error"].strip().splitlines()
    return Run(folder, "failed", spec, result, lines[0] if lines else "no message", result["failed_at_step"], steps)


def locked(folder: Path) -> bool:
    """Whether a run holds its lock on the folder.

    A shared lock is tried and given back at once: two readers never take one another for a run. A file system without
    locks counts as not locked.
    """
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)  # gives the lock back
    return False


def last_step(folder: Path) -> int | None:
    """The step of the last whole line of metrics.jsonl; None before the first."""
    try:
        with open(folder / METRICS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            step = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError):
            continue  # a line that is being written, or was cut by a crash
        if isinstance(step, int):
            return step
    return None


def find(directory: Path) -> list[Path]:
    """The folders of all runs at any depth below `directory`. Raises InputError where it is none, or cannot be read."""
    if not directory.exists():
        raise InputError(f"{directory}: no such folder. Folders that hold runs are needed, such as outputs")
    if not directory.is_dir():
        raise InputError(f"{directory}: this is a file. Folders that hold runs are needed, such as outputs")
    return sorted(_walk(directory), key=_natural)


def _some(directory: Path) -> list[Path]:
    found = find(directory)
    if not found:
        raise InputError(f"{directory}: no run in it: a run is a folder with {SPEC}, at any depth")
    return found


def _walk(top: Path) -> Iterator[Path]:
    """Folders with a spec, what lies behind links last; hidden folders and checkpoints are passed over."""
    visited: set[str] = set()
    pending, links = [top], []
    while pending or links:
        directory = (pending or links).pop()
        real = os.path.realpath(directory)
        if real in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(directory) as listing:
                entries = list(listing)
            if any(entry.name == SPEC and entry.is_file() for entry in entries):
                yield directory
            below = [entry for entry in entries if entry.is_dir()]
        except OSError as error:
            raise InputError(f"{directory}: cannot be read ({error.strerror})") from error
        for entry in below:
            if not entry.name.startswith(".") and entry.name != "checkpoints":
                (links if entry.is_symlink() else pending).append(directory / entry.name)


def _natural(folder: Path) -> list[tuple[int, int, str]]:
    """Sorts seed-2 before seed-10, and a folder before its repeat (x, x-2)."""
    parts = re.findall(r"\d+|\D+", str(folder))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _spec(path: Path) -> dict[str, Any]:
    spec = read_file(path)
    for section in ("model", "dataset", "method"):
        if not isinstance(spec.get(section), dict) or not isinstance(spec[section].get("name"), str):
            raise InputError(f"{path}: {section}.name is missing: this is no run spec")
    return spec


def _result(path: Path) -> dict[str, Any] | None:
    try:
        result = json.loads(path.read_bytes(), parse_constant=_refuse)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged JSON ({error})") from error
    schema.validate(result, str(path))
    return result


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _max_steps(spec: dict[str, Any]) -> int | None:
    training = spec.get("training")
    steps = training.get("max_steps") if isinstance(training, dict) else None
    return steps if isinstance(steps, int) else None
