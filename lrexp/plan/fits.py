"""The largest batch whose planned peak stays within a budget."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from lrexp.plan.plan import Plan, plan
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec

UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MOST = 2**20  # items: where the memory hardly grows with the batch, no more are looked at


def read_bytes(text: str) -> int:
    """The bytes of "24GB", "80 GiB" or a plain number; GB are powers of 1000. Raises InputError."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)", text.strip())
    unit = next((unit for unit in UNITS if found and unit.lower() == found[2].lower()), None)
    if found is None or unit is None or float(found[1]) == 0:
        raise InputError(f"--fits {text}: a size is needed, such as 24GB; units are {', '.join(filter(None, UNITS))}")
    return int(float(found[1]) * UNITS[unit])


def largest(spec: RunSpec, budget: int) -> tuple[int, Plan]:
    """The largest per_device_train_batch_size that fits, and its plan; 0 and the plan of 1 where none does."""
    plans: dict[int, Plan] = {}

    def peak(size: int) -> int:
        if size not in plans:
            plans[size] = plan(sized(spec, size))
        return plans[size].peak

    found = search(peak, budget)
    return found, plans[max(found, 1)]


def sized(spec: RunSpec, size: int) -> RunSpec:
    """The spec with micro-batches of so many items."""
    return replace(spec, training=replace(spec.training, per_device_train_batch_size=size))


def search(peak: Callable[[int], int], budget: int) -> int:
    """The largest size, up to MOST, with peak(size) <= budget for a peak that never falls; 0 where there is none.

    The line through the last two that fit says where to look next, then, once one does not fit, the line to that one
    and the middle by turns; the answer fits, and one more does not.
    """
    if peak(1) > budget:
        return 0
    below, fits, over, looks = 1, 1, MOST + 1, 0
    while over - fits > 1:
        looks += 1
        if over > MOST:
            slope = (peak(fits) - peak(below)) / max(fits - below, 1)
            guess = fits + int((budget - peak(fits)) / slope) if slope else 2 * fits
        elif looks % 2:
            guess = fits + (budget - peak(fits)) * (over - fits) // (peak(over) - peak(fits))
        else:
            guess = (fits + over) // 2
        guess = min(max(guess, fits + 1), over - 1)
        if peak(guess) <= budget:
            below, fits = fits, guess
        else:
            over = guess
    return fits
