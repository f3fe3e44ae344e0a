"""Rungs of a tuning: the step at which a run stands still, and how good it was there on the split to select on.

What a run does is the same with rungs and without: a measurement leaves no trace in the run but a line in a file of its
own, `rungs.jsonl`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "rungs.jsonl"
KEYS = {"step", "metric", "value", "loss"}


def read(folder: Path) -> list[dict[str, Any]]:
    """The rungs so far: step, metric, value and loss; empty where there are none, or the file is damaged."""
    try:
        lines = [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return lines if all(isinstance(line, dict) and set(line) >= KEYS for line in lines) else []


def reached(folder: Path, step: int) -> dict[str, Any] | None:
    """The first rung at this step or a later one; None where the run has not come so far."""
    return next((rung for rung in read(folder) if rung["step"] >= step), None)


def with_another(folder: Path, step: int, metric: str, value: float | None, loss: float | None) -> str:
    """The text of the file with one more rung; what is no number is None."""
    lines = [*read(folder), {"step": step, "metric": metric, "value": value, "loss": loss}]
    return "".join(f"{json.dumps(line)}\n" for line in lines)
