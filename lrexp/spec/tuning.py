"""The words of a tuning, `tune=KEY` and `tune.trials=N`, apart from those of the runs; the values that are tried."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError
from lrexp.spec.override import by_key
from lrexp.spec.run_spec import RunSpec, TrainingSpec
from lrexp.spec.sweep import refuse_within

RATE = "training.learning_rate"


@dataclass(frozen=True)
class Tuning:
    """What is tuned, and what may be spent on it.

    `key` is dotted. `trials` values are tried, of `range` or of the method's own; of those that have come to a rung one
    in `halving` goes on, at least one. `sampler` tpe asks Optuna for values, in rounds, where grid takes all at once.
    """

    key: str
    trials: int = 4
    range: tuple[float, ...] | None = None
    halving: int = 2
    sampler: Literal["grid", "tpe"] = "grid"

    def __post_init__(self) -> None:
        """Raises ValueError for a budget or a range that leaves nothing to choose from."""
        for name in ("trials", "halving"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}: it is at least 2")
        if self.range is not None and not (len(self.range) == 2 and self.range[0] < self.range[1]):
            raise ValueError(f"range is {list(self.range)}: it is [LOWEST,HIGHEST]")


def split(words: Iterable[str]) -> tuple[Tuning | None, list[str]]:
    """The tuning that the words ask for, None if they ask for none, and the other words.

    Raises InputError for a key that is set besides, for words that belong to a tuning without one, and for values that
    are none. The split that the values are compared on is held out of train, so training.selection is best.
    """
    words = list(words)
    refuse_within(words, ("tune",))
    mine = [word for word in words if word.startswith(("tune=", "tune."))]
    others = [word for word in words if word not in mine]
    if not mine:
        return None, others
    found = {key.partition(".")[2] or "key": o.text for key, o in by_key(mine).items()}
    if "key" not in found:
        raise InputError(f"{mine[0]}: says how to tune; tune=KEY says what, tune=learning_rate for instance")
    tuning = from_mapping(Tuning, {name: _value(name, text) for name, text in found.items()}, "tune")
    given = [word.partition("=")[0] for word in others]
    if tuning.key in given:
        raise InputError(f"tune={found['key']}: {tuning.key} is set besides; leave one of them out")
    selecting = [word for word in others if word.startswith("training.selection=")]
    if set(selecting) - {"training.selection=best"}:
        raise InputError(
            f"{selecting[0]}: tune= compares runs on a split held out of train, by training.selection=best"
        )
    return tuning, ["training.selection=best", *(word for word in others if word not in selecting)]


def candidates(tuning: Tuning, spec: RunSpec) -> tuple[float, float]:
    """The lowest and the highest value that a spec's runs are tried with. Raises InputError where no range is known."""
    if tuning.range is not None:
        return tuning.range[0], tuning.range[1]
    name = spec.method["name"]
    known = spec.method.get("tuning", {}).get(f"{tuning.key.rpartition('.')[2]}_range")
    if known is None:
        raise InputError(f"tune={tuning.key}: method={name} has no range for it; give tune.range=[LOWEST,HIGHEST]")
    factor = spec.model.get("learning_rate_factor", 1.0) if tuning.key == RATE else 1.0
    return known[0] * factor, known[-1] * factor


def grid(low: float, high: float, count: int, is_whole: bool) -> list[float]:
    """Values from the lowest to the highest at equal ratios (equal steps where the lowest is not above 0)."""
    shares = [i / (count - 1) for i in range(count)]
    values = [low * (high / low) ** share if low > 0 else low + (high - low) * share for share in shares]
    return list(dict.fromkeys(rounded(value, is_whole) for value in values))


def rounded(value: float, is_whole: bool) -> float:
    """A value as it is written into a spec: whole, or of three digits."""
    return round(value) if is_whole else float(f"{value:.3g}")


def fractions(count: int, halving: int) -> list[float]:
    """The shares of a whole run at which one in `halving` of the runs that are left go on, till one is left."""
    cuts = max(1, math.ceil(math.log(count, halving) - 1e-9))
    return [halving ** (i - cuts) for i in range(cuts)]


def _value(name: str, text: str) -> object:
    """Text as a value of its field: a list, a whole number, a key."""
    if name == "key":
        if "." in text:
            return text
        return f"{'training' if text in {field.name for field in fields(TrainingSpec)} else 'method'}.{text}"
    try:
        return json.loads(text)
    except ValueError:
        return text
