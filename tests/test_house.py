"""The shape of the house: data goes one way, files stay small, randomness has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    ["linalg", "spec"],
    ["models"],
    ["layers", "optim"],
    ["methods", "tasks", "analysis"],
    ["engine", "report"],
    ["train"],
    ["launch", "laws", "verify", "plan"],
    ["commands", "cli"],
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted((ROOT / "lrexp").rglob("*.py"))
LIMIT = 300


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lrexp"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names if node.module == "lrexp"}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("lrexp")}
    return {room(name) for name in found} & FLOOR.keys()


def test_every_room_has_its_floor() -> None:
    rooms = {p.relative_to(ROOT / "lrexp").parts[0].removesuffix(".py") for p in SOURCES}
    assert rooms - {"__init__", "__main__"} <= FLOOR.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_points_up(path: Path) -> None:
    own = path.relative_to(ROOT / "lrexp").parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    wrong = {other for other in imports(path) if other != own and FLOOR[other] >= FLOOR[own]}
    assert not wrong, f"{own} imports {wrong}"


FOLDERS = ("lrexp", "scripts", "tests", "conf")
FILES = sorted(p for folder in FOLDERS for end in ("py", "yaml") for p in (ROOT / folder).rglob(f"*.{end}"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LIMIT
    assert path.stem not in ("utils", "helpers", "common", "misc")


def test_one_file_seeds_the_global_generator() -> None:
    doors = [
        p.relative_to(ROOT).as_posix()
        for p in SOURCES
        if "manual_seed(" in p.read_text() and "torch.manual_seed(" in p.read_text()
    ]
    assert doors == ["lrexp/linalg/random.py"]


def test_nothing_is_pickled_or_instantiated_from_yaml() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for word in (
            "import pickle",
            "torch.save(",
            "torch.load(",
            "hydra.utils",
            "trust_remote_code=True",
            "yaml.load(",
        ):
            assert word not in text, f"{path}: {word}"


def test_import_of_the_package_brings_no_torch() -> None:
    code = "import lrexp, lrexp.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
