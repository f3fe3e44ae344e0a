"""Of rows that differ in tuned keys alone, the best by a split that is not reported."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lrexp.report.group import Group, content, differing
from lrexp.report.statistics import mean
from lrexp.spec.errors import InputError
from lrexp.spec.result import LOWER_IS_BETTER

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
            raise InputError(
                f"table: --tuned {key}: the runs do not differ in it, only in {', '.join(there) or 'seeds'}"
            )
    if all(selected(found) is None for found in groups):
        raise InputError("table: --tuned needs runs with a metric of validation beside that of test, or of selection")
    families: dict[str, list[Group]] = {}
    for found in groups:
        pooled = [_settings(found, keys), found.metric, found.get("evaluated_on")]
        families.setdefault(json.dumps(pooled, sort_keys=True, default=str), []).append(found)
    chosen = [found for family in families.values() for found in _best(family)]
    settled = [_settings(found, keys) for found in chosen if selected(found) is not None]
    return [found for found in chosen if found.metric is not None or _settings(found, keys) not in settled]


def selected(found: Group) -> float | None:
    """Mean over seeds of the primary metric on the split to select on; None where the runs have none."""
    for split in SPLITS:
        if split != found.get("evaluated_on"):
            results = [run.result["metrics"].get(f"{split}_{found.metric}") for run in found.finished if run.result]
            values = [value for value in results if value is not None]
            if values:
                return mean(values)
    return None


def _settings(found: Group, keys: Sequence[str]) -> list[object]:
    """What the rows of a family share: their specs but for the tuned keys, and what they read."""
    return [{key: value for key, value in found.identity.items() if key not in keys}, content(found.runs[0])]


def _best(family: list[Group]) -> list[Group]:
    """The best row; all of them where none has a value."""
    values = [(value, found) for found in family if (value := selected(found)) is not None]
    if not values:
        return family
    best = min if family[0].metric in LOWER_IS_BETTER else max
    return [best(values, key=lambda pair: pair[0])[1]]
