"""Two runs side by side: the keys in which their specs differ, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrexp.report import quantity
from lrexp.report.collect import SPEC, Run, read_run
from lrexp.report.group import IGNORED, SECTION, fingerprint
from lrexp.report.render import plain, shown
from lrexp.spec import result as schema
from lrexp.spec.errors import InputError
from lrexp.spec.yaml_text import read_file

COLUMNS = ("part", "key", "A", "B", "difference", "standard error", "ratio")
READABLE = ("part", "key", "A", "B", "from A to B")
NO_EFFECT = "spec, no effect"  # on the numbers
ABSENT = "(absent)"
CONTENT = ("data", "model", "init")  # what has a fingerprint
Row = dict[str, Any]
UNITS = {field.name.removeprefix("costs."): field.unit for field in schema.FIELDS if field.name.startswith("costs.")}


def read(place: Path) -> Run:
    """A run's folder, its spec.yaml, or any other file with a spec. Raises InputError for what is none of them."""
    if place.is_dir() or place.name == SPEC:
        folder = place if place.is_dir() else place.parent
        if not (folder / SPEC).is_file():
            raise InputError(f"{place}: no {SPEC} there. `lrexp diff` takes runs' folders and spec files")
        run = read_run(folder)
        if run.status == "damaged":
            raise InputError(run.reason or f"{place}: damaged")
        return run
    spec = read_file(place)
    for section in ("model", "dataset", "method"):
        if not isinstance(spec.get(section), Mapping):
            raise InputError(f"{place}: {section} is missing: this is no run spec")
    return Run(place, "a spec", spec)


def compare(a: Run, b: Run) -> list[Row]:
    """Everything in which two runs differ, and all metrics and costs where both have a result."""
    return [*_runs(a, b), *spec_rows(a, b), *_made_with(a, b), *_metrics(a, b), *_costs(a, b)]


def spec_rows(a: Run, b: Run) -> list[Row]:
    """The keys whose values differ; those that decide the numbers come first."""
    left, right = (dict(_flat({k: v for k, v in run.spec.items() if k != "provenance"})) for run in (a, b))
    same_content = {name for name in CONTENT if _fingerprint(a, name) == _fingerprint(b, name) is not None}
    rows = []
    for key in dict.fromkeys([*left, *right]):
        if key not in left or key not in right or not _same(left[key], right[key]):
            part = NO_EFFECT if _without_effect(key) or SECTION.get(key) in same_content else "spec"
            rows.append(_row(part, key, left.get(key, ABSENT), right.get(key, ABSENT)))
    return sorted(rows, key=lambda row: row["part"] == NO_EFFECT)


def readable(row: Row) -> Row:
    """The row for a reader: humane units, the change in one cell."""
    cells = {side: _cell(row["part"], row["key"], row[side]) for side in ("A", "B")}
    return {"part": row["part"], "key": row["key"], **cells, "from A to B": _change(row)}


def _runs(a: Run, b: Run) -> Iterator[Row]:
    yield _row("run", "place", str(a.folder), str(b.folder))
    yield _row("run", "status", _status(a), _status(b))


def _status(run: Run) -> str:
    if run.status == "running" or (run.status == "interrupted" and run.step is not None):
        return f"{run.status}, step {run.step} of {run.steps or '?'}"
    return f"failed: {run.reason}" if run.status == "failed" else run.status


def _made_with(a: Run, b: Run) -> Iterator[Row]:
    """What differs in versions, device, fingerprints, commit and marks."""
    left, right = _facts(a), _facts(b)
    for part, key in dict.fromkeys([*left, *right]):
        before, after = left.get((part, key)), right.get((part, key))
        if before is not None and after is not None and before != after:
            yield _row(part, key, before, after)


def _facts(run: Run) -> dict[tuple[str, str], Any]:
    """What a run says it was made with; a spec that never ran says nothing."""
    said = {**_mapping(run.spec.get("provenance")), **(run.result or {})}
    versions, hardware, git = (_mapping(said.get(name)) for name in ("versions", "hardware", "git"))
    found = {("version", name): value for name, value in versions.items()}
    found |= {("fingerprint", name): _fingerprint(run, name) for name in CONTENT}
    found |= {("device", name): hardware.get(name) for name in ("device", "device_name")}
    found |= {("source", f"git {name}"): value for name, value in git.items()}
    return found | {("result", "marks"): said.get("marks"), ("result", "evaluated on"): said.get("evaluated_on")}


def _fingerprint(run: Run, what: str) -> str | None:
    """Hash of the data, the base model or the weights of the run that it starts from; None where there is none."""
    return fingerprint(run, f"{what}_fingerprint")


def _metrics(a: Run, b: Run) -> Iterator[Row]:
    """All metrics of two results, the primary one first, with B - A and its standard error."""
    if a.result is None or b.result is None:
        return
    left, right, primary = a.result["metrics"], b.result["metrics"], a.result["primary_metric"]
    names = [name for name in {**left, **right} if not name.endswith(schema.STANDARD_ERROR)]
    for name in sorted(names, key=lambda name: name != primary):
        row = _row("metric", name, left.get(name), right.get(name))
        if row["A"] is not None and row["B"] is not None:
            row["difference"] = row["B"] - row["A"]
            errors = [metrics.get(f"{name}{schema.STANDARD_ERROR}") for metrics in (left, right)]
            row["standard error"] = math.hypot(*errors) if None not in errors else None
        yield row


def _costs(a: Run, b: Run) -> Iterator[Row]:
    """The costs that at least one of two results has, with B / A."""
    if a.result is None or b.result is None:
        return
    left, right = a.result["costs"], b.result["costs"]
    for name in dict.fromkeys([*left, *right]):
        before, after = left.get(name), right.get(name)
        if before == after and not isinstance(before, int | float):
            continue
        row = _row("cost", name, before, after)
        if isinstance(before, int | float) and isinstance(after, int | float) and before > 0:
            row["ratio"] = after / before
        yield row


def _row(part: str, key: str, a: Any, b: Any) -> Row:
    return {"part": part, "key": key, "A": a, "B": b, "difference": None, "standard error": None, "ratio": None}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list is one value."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _without_effect(key: str) -> bool:
    """Whether a key decides no number: labels, tracking, how often is saved."""
    parts = key.split(".")
    heads = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return key != "seed" and bool(heads & IGNORED)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _cell(part: str, key: str, value: Any) -> str:
    """A value with its unit: of a metric, a cost, or as YAML writes it."""
    if value is None:
        return "null" if part.startswith("spec") else "-"
    if part == "metric":
        return str(quantity.metric(value))
    if part == "cost" and isinstance(value, int | float):
        units = {"bytes": quantity.memory, "seconds": quantity.duration, "numbers": quantity.count}
        return str(units.get(UNITS.get(key, ""), shown)(value))
    if part == "fingerprint":
        return str(value)[:12]
    return plain(value)


def _change(row: Row) -> str | None:
    if row["difference"] is not None:
        error = quantity.metric(row["standard error"])
        if row["difference"] == 0:
            return "equal"
        change = f"{'+' if row['difference'] > 0 else ''}{quantity.metric(row['difference'])}"
        return f"{change} ± {error}" if error else change
    if row["ratio"] is not None:
        return "equal" if row["ratio"] == 1 else f"x {row['ratio']:.3g}"
    return None
