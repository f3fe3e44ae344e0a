"""Whether runs show what a claim says: by the 95 % interval of differences paired by seed, not by means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrexp.report.collect import Run
from lrexp.report.drift import PREFIXES
from lrexp.report.history import history
from lrexp.report.scale import lower_is_better
from lrexp.report.statistics import interval, mean
from lrexp.spec.claim import Check
from lrexp.spec.errors import InputError

SEEN, NOT_SEEN, CONTRADICTED = "seen here", "not seen at this scale", "contradicted at this scale"


@dataclass(frozen=True)
class Finding:
    """One check: what both sides reached, the difference with its interval, and the verdict.

    For `less`, `difference` is the ratio of the first to the second.
    """

    check: Check
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    pairs: int
    verdict: str


def judge(check: Check, sides: Mapping[str, Sequence[Run]]) -> Finding:
    """What the finished runs of both sides say. Raises InputError where fewer than two seeds are in both."""
    first, second = (values(sides[side], check.metric) for side in (check.first, check.second))
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        raise InputError(
            f"{check.metric}: {len(seeds)} seeds of both {check.first} and {check.second} have it, two are needed"
        )
    pairs = [(first[seed], second[seed]) for seed in seeds]
    if check.relation == "less":
        found = [a / b if b else math.inf for a, b in pairs]
    else:
        sign = -1.0 if is_lower_better(check.metric) else 1.0
        found = [sign * (a - b) for a, b in pairs]
    bounds = interval(found)
    assert bounds is not None  # two pairs have one
    verdict = _verdict(check, *bounds)
    return Finding(
        check, mean([a for a, _ in pairs]), mean([b for _, b in pairs]), mean(found), bounds, len(pairs), verdict
    )


def overall(findings: Sequence[Finding]) -> str:
    """A claim is seen where all of its checks are, contradicted where one is."""
    verdicts = [finding.verdict for finding in findings]
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return SEEN if all(verdict == SEEN for verdict in verdicts) else NOT_SEEN


def values(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """A number of each finished run, by its seed."""
    found: dict[int, float] = {}
    for run in runs:
        value = _value(run, metric)
        if run.result is not None and value is not None:
            found.setdefault(run.result["seed"], value)
    return found


def is_lower_better(metric: str) -> bool:
    """Whether less of it is better: costs, losses of any split, drift and what is forgotten."""
    return metric.startswith(("costs.", *PREFIXES)) or lower_is_better(metric.removeprefix("curve."))


def _value(run: Run, metric: str) -> float | None:
    if run.result is None or run.status != "finished":
        return None
    kind, _, name = metric.partition(".")
    if kind == "curve":
        known = [value for value in history(run.folder).get(name, {}).values() if not math.isnan(value)]
        return mean(known) if known else None
    return run.result["costs"].get(name) if kind == "costs" else run.result["metrics"].get(metric)


def _verdict(check: Check, low: float, high: float) -> str:
    margin = check.margin
    if check.relation == "better":
        return SEEN if low > margin else CONTRADICTED if high < 0 else NOT_SEEN
    if check.relation == "less":
        return SEEN if high <= margin else CONTRADICTED if low > margin else NOT_SEEN
    if -margin < low and high < margin:
        return SEEN
    return CONTRADICTED if low > margin or high < -margin else NOT_SEEN
