"""What a run was made with: versions, hardware, the state of the source."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("lrexp", "torch", "transformers", "tokenizers", "datasets", "numpy", "scikit-learn", "scipy", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware(device: torch.device, threads: int, precision: str) -> dict[str, Any]:
    """The device that the run had."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": device.type, "device_name": name, "threads": threads, "precision": precision}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that lrexp runs from; None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "clean": _git(root, "status", "--porcelain", "--untracked-files=no") == ""}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Marks for a run whose spec was frozen with other versions or other data."""
    marks = []
    old, new = then.get("versions") or {}, now["versions"]
    changed = [f"{name} {old[name]} -> {new.get(name, 'none')}" for name in old if old[name] != new.get(name)]
    if changed:
        marks.append(f"versions differ: {', '.join(changed)}")
    for what in ("data", "model"):
        before = then.get(f"{what}_fingerprint")
        if before is not None and before != now[f"{what}_fingerprint"]:
            marks.append(f"{what} differs")
    start, now_start = (facts.get("init_fingerprint") for facts in (then, now))
    if start is not None and now_start not in (None, start):
        marks.append("the run that it starts from differs")
    return marks
