"""Which files of a folder are golden cases of a method. Imports no torch: wrong input is answered at once."""

from __future__ import annotations

import json
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lrexp.verify.replays
from lrexp.methods.catalog import entries
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Found:
    """One json file that claims to be a case: its path and what it holds, not yet checked further."""

    path: Path
    content: Mapping[str, Any]


def replayed() -> list[str]:
    """The methods, optimizers and measures that have replays: each is a module of `lrexp.verify.replays`."""
    return sorted(module.name for module in pkgutil.iter_modules(lrexp.verify.replays.__path__))


def check_method(name: str) -> None:
    """Raises InputError, with the nearest name, where `name` is neither in the catalogue nor replayed."""
    known = sorted({*entries(), *replayed()})
    if name not in known:
        raise InputError(unknown(f"verify {name}", name, known, "method"))


def checkout_cases() -> Path:
    """The golden cases of the checkout that this package lies in. Raises InputError where there is no checkout."""
    folder = PACKAGE.parent / "tests" / "golden"
    if not folder.is_dir():
        raise InputError("verify: this installation comes without tests/golden: say where the cases are, --cases DIR")
    return folder


def find(folder: Path, method: str | None) -> list[Found]:
    """The cases of `method` (None: of any) among the json files at any depth of `folder`, by path.

    A json file that is no case, or another method's, is passed over. Raises InputError for a folder or file that
    cannot be read, for damaged json, and where no case is left.
    """
    files = _json_files(folder)
    contents = [(path, _read(path)) for path in files]
    cases = [
        Found(path, content) for path, content in contents if isinstance(content, dict) and _is_case(content, method)
    ]
    if not cases:
        of = f" of {method!r}" if method else ""
        raise InputError(f"verify: no case{of} among the {len(files)} json files in {folder}")
    return cases


def _json_files(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):  # unlike Path's, no error where a parent cannot be read
        what = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise InputError(f"--cases {folder}: {what}")
    files: list[Path] = []
    seen: set[str] = set()  # links may lead in a circle

    def refuse(error: OSError) -> None:
        raise InputError(f"--cases {folder}: cannot read {error.filename}: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        files += [Path(root, name) for name in names if name.endswith(".json")]
    return sorted(files)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged json: {error}") from error


def _is_case(content: dict[str, Any], method: str | None) -> bool:
    if method is None:
        return isinstance(content.get("method"), str) and "kind" in content
    return content.get("method") == method
