"""Of rows that differ in tuned keys alone, the best by a split that is not reported."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lrexp.report.group import Group, content, differing
from lrexp.report.statistics import mean
from lrexp.spec.errors import InputError
from lrexp.spec.result import LOWER_IS_BETTER

RATE = "training.learning_rate"
SPLITS = ("selection", "validation")  # what is held out where validation is reported, and where test is


def tuned(groups: Sequence[Group], keys: Sequence[str]) -> list[Group]:
    """The rows that are best within their families; a family is what differs in `keys` alone.

    Best is the mean over seeds of the primary metric on the split to select on, which is not the one that is reported.
    Rows without it stay only where no row of their family has it. Raises InputError for a key that tells no rows apart,
    and where no run has such a metric.
    """
    there = differing(groups)
    for key in keys:
        if key not in there:
            raise InputError(f"--tuned {key}: the runs do not differ in it, only in {', '.join(there) or 'seeds'}")
    if all(selected(found) is None for found in groups):
        raise InputError("--tuned needs runs with a metric of validation beside that of test, or of selection")
    return [found for alike in families(groups, keys) for found in _best(alike)]


def families(groups: Sequence[Group], keys: Sequence[str]) -> list[list[Group]]:
    """The groups that differ in `keys` alone stand together, in the order of the first of each family."""
    found: dict[str, list[Group]] = {}
    for one in groups:
        found.setdefault(family(one, keys), []).append(one)
    return list(found.values())


def rates_tried(groups: Sequence[Group], tuned_keys: Sequence[str] = ()) -> dict[str, int]:
    """For the family of each group how many learning rates it has, those of failed runs included.

    The families are those of `rate_family`: what differs in the rate and in `tuned_keys` alone.
    """
    rates: dict[str, set[object]] = {}
    for found in groups:
        rates.setdefault(rate_family(found, tuned_keys), set()).add(found.identity.get(RATE))
    return {name: len(tried) for name, tried in rates.items()}


def rate_family(found: Group, tuned_keys: Sequence[str] = ()) -> str:
    """The family of a group in which only learning rates and `tuned_keys` differ."""
    return family(found, (RATE, *tuned_keys))


def family(found: Group, keys: Sequence[str]) -> str:
    """What groups have in common that differ in `keys` alone: settings and content, as text.

    Metric and split follow from these; a row whose runs stand still at a tuning's rung has no metric yet.
    """
    settings = {key: value for key, value in found.identity.items() if key not in keys}
    return json.dumps([settings, content(found.runs[0])], sort_keys=True, default=str)


def selected(found: Group) -> float | None:
    """Mean over seeds of the primary metric on the split to select on; None where the runs have none."""
    for split in SPLITS:
        if split != found.get("evaluated_on"):
            results = [run.result["metrics"].get(f"{split}_{found.metric}") for run in found.finished if run.result]
            values = [value for value in results if value is not None]
            if values:
                return mean(values)
    return None


def _best(alike: list[Group]) -> list[Group]:
    """The best row; all of them where none has a value."""
    values = [(value, found) for found in alike if (value := selected(found)) is not None]
    if not values:
        return alike
    best = min if alike[0].metric in LOWER_IS_BETTER else max
    return [best(values, key=lambda pair: pair[0])[1]]
