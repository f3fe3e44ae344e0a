"""What a run has recorded on its way: metrics.jsonl by name and step."""

from __future__ import annotations

import json
import math
from pathlib import Path

from lrexp.report.collect import METRICS

History = dict[str, dict[int, float]]


def history(folder: Path) -> History:
    """Values by name and step; null is NaN. Empty without a record; lines that were cut are passed over."""
    try:
        lines = (folder / METRICS).read_bytes().splitlines()
    except OSError:
        return {}
    found: History = {}
    for line in lines:
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if isinstance(step, int):
            for name, value in values.items():
                found.setdefault(name, {})[step] = _number(value)
    return found


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
