"""The process of a worker: how it is started, and what its end says. Imports no torch."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from lrexp.spec.yaml_text import END

PAUSED = 75  # its exit code where the run stands still at a rung


def start(
    folder: Path, text: str, until: int | None, environment: Mapping[str, str], errors: IO[str]
) -> subprocess.Popen[str]:
    """Starts a worker on a frozen spec's text; it writes a checkpoint and stops when this process is gone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lrexp.launch.worker", str(folder), *([str(until)] if until else [])],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text.rstrip("\n") + END)
        process.stdin.flush()
    return process


def ending(code: int, errors: IO[str]) -> tuple[str, str]:
    """What became of a run by its worker's exit code and what it wrote to standard error: the state and a reason."""
    if code == 0:
        return "finished", ""
    if code == 130:
        return "interrupted", ""
    if code == PAUSED:
        return "paused", ""
    if code < 0:
        killer = signal.Signals(-code).name
        return "interrupted", f"its process was ended by {killer}; the same line goes on from its checkpoint"
    errors.seek(0)
    lines = [line.removeprefix("lrexp: ").strip() for line in errors if line.strip()]
    return "failed", lines[-1] if lines else f"its process ended with exit code {code}"
