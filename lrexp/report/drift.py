"""What training has moved and what was forgotten by it (`training.drift`): columns of the table, a line of a run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lrexp.report import quantity
from lrexp.report.group import Group

COLUMNS = {  # of a reader's table, each where some run has its metric
    "weight drift": "drift_weights",
    "output drift": "drift_representation",
    "forgetting": "forgetting_loss",
}
PREFIXES = ("drift_", "forgetting_")  # of all their metrics


def shown(groups: Sequence[Group]) -> dict[str, str]:
    """The columns that some run has something for, and their metrics."""
    return {
        column: metric
        for column, metric in COLUMNS.items()
        if any(found.mean_of(metric) is not None for found in groups)
    }


def cells(found: Group, columns: Mapping[str, str]) -> dict[str, str | None]:
    """A reader's cells of one row: means over the seeds."""
    return {column: quantity.metric(found.mean_of(metric)) for column, metric in columns.items()}


def numbers(found: Group, columns: Mapping[str, str]) -> dict[str, float | None]:
    """The same row for programs, under the metrics' exact names."""
    return {metric: found.mean_of(metric) for metric in columns.values()}


def line(metrics: Mapping[str, float | None]) -> str:
    """All that one run has measured, empty where that is nothing."""
    value = {name: quantity.metric(number) for name, number in metrics.items() if number is not None}
    parts = []
    if "drift_weights" in value:
        groups = [f"{g} {value[f'drift_weights_{g}']}" for g in ("attention", "mlp") if f"drift_weights_{g}" in value]
        parts.append(f"weights {value['drift_weights']}" + f" ({', '.join(groups)})" * bool(groups))
    if "drift_representation" in value:
        parts.append(f"outputs {value['drift_representation']}")
    if "forgetting_loss" in value:
        before, after = (value[f"forgetting_loss_{when}"] for when in ("before", "after"))
        parts.append(f"forgetting {value['forgetting_loss']} (loss {before} before, {after} after)")
    return ", ".join(parts)
