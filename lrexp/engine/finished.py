"""What the folder of a finished run holds: its spec, its result, its decisions and all that it trained."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lrexp.engine import checkpoint
from lrexp.engine import folder as folders
from lrexp.engine.folder import DECISIONS, WEIGHTS
from lrexp.methods.base import Decisions
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Finished:
    """What the folder of a finished run says."""

    folder: Path
    spec: RunSpec
    facts: dict[str, Any]  # the provenance in spec.yaml: fingerprints, versions, git, spec_hash
    result: dict[str, Any]


def read(folder: Path) -> Finished:
    """The run in a folder. Raises InputError where there is none, or one that is not finished."""
    if not (folder / "spec.yaml").is_file():
        raise InputError(f"{folder}: no run is there (no spec.yaml). A run's folder is one that lrexp train wrote.")
    spec, facts = RunSpec.read(folder / "spec.yaml")
    result = folders.finished(folder)
    if result is None:
        raise InputError(f"{folder}: the run there has not finished. Give its lrexp train line again.")
    return Finished(folder, spec, facts, result)


def tensors(folder: Path, keeps_base: bool) -> dict[str, Tensor]:
    """All that a run kept, by name, on the CPU. Raises InputError for a file that is missing or damaged."""
    file = folder / WEIGHTS[keeps_base]
    try:
        return load_file(file)
    except FileNotFoundError:
        raise missing(file) from None
    except (OSError, SafetensorError) as error:
        raise damaged(file, error) from error


def shapes(folder: Path, keeps_base: bool) -> Shapes:
    """The shapes of what a run kept, by name. Raises InputError for a file that is missing or damaged."""
    file = folder / WEIGHTS[keeps_base]
    try:
        with safe_open(file, framework="pt") as held:
            return {name: tuple(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise missing(file) from None
    except (OSError, SafetensorError) as error:
        raise damaged(file, error) from error


def fingerprint(folder: Path, keeps_base: bool) -> str:
    """A hash of what a run kept: its tensors and its decisions. Raises InputError for a file that is missing."""
    digest = hashlib.sha256()
    for file in (folder / WEIGHTS[keeps_base], *sorted((folder / DECISIONS).glob("*"))):
        try:
            with file.open("rb") as stream:
                digest.update(file.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
        except FileNotFoundError:
            raise missing(file) from None
        except OSError as error:
            raise damaged(file, error) from error
    return digest.hexdigest()


def decisions(folder: Path, device: torch.device) -> Decisions:
    """What the run decided, as it was kept; empty where it decided nothing. Raises InputError where it is damaged."""
    place = folder / DECISIONS
    if not place.is_dir():
        return Decisions()
    try:
        return Decisions(**checkpoint.read(place).part("decisions", device))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(place, error) from error


def keep_decisions(folder: Path, decisions: Decisions) -> None:
    """Writes what a run decided beside its weights, where it decided anything."""
    if decisions.values or decisions.tensors:
        checkpoint.write(folder / DECISIONS, {}, {"decisions": vars(decisions)})


def missing(file: Path) -> InputError:
    """What to say where a file of the run is not there."""
    return InputError(f"{file}: missing; without it the run cannot be had again.")


def damaged(file: Path, error: Exception) -> InputError:
    """What to say where a file of the run cannot be read."""
    lines = str(error).splitlines() or [type(error).__name__]
    return InputError(f"{file}: damaged or cut short ({lines[0][:100]}).")
