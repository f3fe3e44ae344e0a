"""The largest size that stays within a budget, by few looks at what sizes take."""

from __future__ import annotations

import math
from collections.abc import Callable

Measure = Callable[[int], float]  # what a size takes; infinite where there is no such size


def search(taken: Measure, budget: float, most: int) -> int:
    """The largest size, up to `most`, with taken(size) <= budget for a measure that never falls; 0: there is none.

    The line through the last two that fit says where to look next, then, once one does not fit, the line to that one
    and the middle by turns; the answer fits, and one more does not.
    """
    if taken(1) > budget:
        return 0
    below, fits, over, looks = 1, 1, most + 1, 0
    while over - fits > 1:
        looks += 1
        low, high = (fits, over) if over <= most and not math.isinf(taken(over)) else (below, fits)
        slope = (taken(high) - taken(low)) / max(high - low, 1)
        guess = fits + int((budget - taken(fits)) / slope) if slope else 2 * fits
        if over <= most and (looks % 2 or guess >= over):
            guess = (fits + over) // 2
        guess = min(max(guess, fits + 1), over - 1)
        if taken(guess) <= budget:
            below, fits = fits, guess
        else:
            over = guess
    return fits
