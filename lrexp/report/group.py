"""Groups runs over seeds: same spec apart from the seed, same data, same weights before. Nothing else is pooled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lrexp.report.collect import Run
from lrexp.report.statistics import Summary, median, summary
from lrexp.spec.result import STANDARD_ERROR
from lrexp.spec.run_spec import ADDED, LOCATIONS, UNHASHED

SECTION = {  # places, and whose content lies there
    **{f"model.{name}": "model" for name in LOCATIONS["model"]},
    **{f"dataset.{name}": "data" for name in LOCATIONS["dataset"]},
    "init_from": "init",
}
PLACES = set(SECTION)
IGNORED = {"format", "experiment", "seed", "tracking", "provenance"} | (
    {f"{section}.{name}" for section, names in UNHASHED.items() for name in names} - PLACES
)
UNSAID = {f"{section}.{name}": value for section, added in ADDED.items() for name, value in added.items()}
FINGERPRINTS = ("data_fingerprint", "model_fingerprint")
MEDIAN = ("step_seconds", "tokens_per_second", "prepare_seconds", "train_seconds", "evaluate_seconds")
LARGEST = (
    "trainable_parameters",
    "total_parameters",
    "optimizer_state_bytes",
    "peak_memory_bytes",
    "peak_memory_reserved_bytes",
    "prepare_peak_bytes",
)
PLANNED = "planned_peak_bytes"  # a cost that older results lack


@dataclass
class Group:
    """The runs of one row. `identity` is their spec by dotted keys, without what is ignored."""

    identity: dict[str, Any]
    runs: list[Run] = field(default_factory=list)

    @cached_property
    def finished(self) -> list[Run]:
        """The finished runs, one a seed: a repeat of a seed is no further draw."""
        found: dict[int, Run] = {}
        for run in self.with_status("finished"):
            found.setdefault(_result(run)["seed"], run)
        return [found[seed] for seed in sorted(found)]

    def with_status(self, status: str) -> list[Run]:
        """The runs that have this status."""
        return [run for run in self.runs if run.status == status]

    @cached_property
    def values(self) -> dict[int, float]:
        """The primary metric by seed."""
        return self.values_of(self.metric)

    def values_of(self, metric: str) -> dict[int, float]:
        """Any metric of the finished runs by seed, without those that lack it or have it undefined."""
        found = {_result(run)["seed"]: _result(run)["metrics"].get(metric) for run in self.finished}
        return {seed: value for seed, value in found.items() if value is not None}

    @cached_property
    def summary(self) -> Summary | None:
        """What the seeds say of the primary metric."""
        return summary(list(self.values.values()))

    @property
    def standard_error(self) -> float | None:
        """The metric's own standard error, over items, where one seed stands alone."""
        if len(self.values) != 1:
            return None
        found = [_result(run)["metrics"].get(f"{self.metric}{STANDARD_ERROR}") for run in self.finished]
        return next((error for error in found if error is not None), None)

    def get(self, name: str) -> Any:
        """A field of result.json that all runs of the group share, None before one has a result."""
        return next((run.result[name] for run in [*self.finished, *self.runs] if run.result is not None), None)

    def mean_of(self, metric: str) -> float | None:
        """The mean of any metric over the seeds that have it."""
        found = [_result(run)["metrics"].get(metric) for run in self.finished]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def metric(self) -> Any:
        """Exact name of the primary metric."""
        return self.get("primary_metric")

    def part(self, section: str) -> str | None:
        """Name of the model, the dataset or the method."""
        return self.get(section) or self.identity.get(f"{section}.name")

    def fingerprint(self, name: str) -> str | None:
        """The fingerprint of data, model or start, None where no run has got that far."""
        return next((found for run in self.runs if (found := fingerprint(run, name))), None)

    @property
    def experiment(self) -> str | None:
        """Name of the experiment, if the runs were made by one."""
        return next((run.spec["experiment"] for run in self.runs if run.spec.get("experiment")), None)

    @property
    def seeds(self) -> list[int]:
        """Seeds of all runs, finished or not."""
        found = [run.result["seed"] if run.result else run.spec.get("seed") for run in self.runs]
        return sorted({seed for seed in found if isinstance(seed, int)})

    @cached_property
    def costs(self) -> dict[str, float | None]:
        """Largest sizes and median times of the finished runs; of the others where none has finished."""
        results = [run.result for run in self.finished or self.runs if run.result is not None]
        found: dict[str, float | None] = {}
        for names, of in (((*LARGEST, PLANNED), max), (MEDIAN, median)):
            for name in names:
                known = [cost for result in results if (cost := result["costs"].get(name)) is not None]
                found[name] = of(known) if known else None
        return found


def group(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order of their first runs.

    Where fingerprints are known they stand for the places of model, data and start. A run without a result joins the
    only group that has its spec; no number of it is pooled.
    """
    groups: dict[str, Group] = {}
    alike: dict[str, list[Group]] = {}  # by settings alone
    for run in sorted(runs, key=lambda run: run.result is None):
        settings = _settings(run)
        others = [] if run.result else alike.get(settings, [])
        homes = [found for found in others if _shares_content(run, found.runs[0])]
        pooled = [run.result["primary_metric"], run.result["evaluated_on"]] if run.result else None
        key = _key([settings, pooled, content(run), "" if run.spec else str(run.folder)])
        home = homes[0] if len(homes) == 1 else groups.get(key)
        if home is None:
            home = groups[key] = Group(flat(run.spec))
            alike.setdefault(settings, []).append(home)
        home.runs.append(run)
    order = {run.folder: index for index, run in enumerate(runs)}
    for found in groups.values():
        found.runs.sort(key=lambda run: order[run.folder])
    return sorted(groups.values(), key=lambda found: order[found.runs[0].folder])


def fingerprint(run: Run, name: str) -> str | None:
    """A fingerprint out of the result, or out of what spec.yaml says of its making."""
    provenance = run.spec.get("provenance")
    made_with = provenance if isinstance(provenance, dict) else {}
    return (run.result or {}).get(name) or made_with.get(name)


def flat(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec by dotted keys, without what is ignored; lists and empty mappings are values."""
    return dict(_leaves(spec, ""))


def differing(groups: Sequence[Group]) -> list[str]:
    """Keys in which groups of one dataset and one model differ, among those that have the key, in the spec's order.

    A key that some methods alone have counts where groups of one method differ in it. Names that have columns of their
    own are left out, and places of data and models that hold the same content.
    """
    blocks: dict[tuple[object, object], list[Group]] = {}
    for found in groups:
        blocks.setdefault((found.identity.get("dataset.name"), found.identity.get("model.name")), []).append(found)
    keys = dict.fromkeys(key for found in groups for key in found.identity)
    own = ("method.name", "model.name", "dataset.name")
    return [key for key in keys if key not in own and any(_differs(key, block) for block in blocks.values())]


def _settings(run: Run) -> str:
    """What decides the numbers; a key that came later and says nothing new is left out, as older specs lack it."""
    said = {key: value for key, value in flat(run.spec).items() if key not in UNSAID or value != UNSAID[key]}
    return _key({key: value for key, value in said.items() if key not in PLACES})


def content(run: Run) -> list[Any]:
    """Fingerprints of what a run reads; where it has not got them, the places that they are read from."""
    known = _fingerprints(run)
    return known if None not in known else [value for key, value in flat(run.spec).items() if key in PLACES]


def _fingerprints(run: Run) -> list[str | None]:
    """Those of data and model, and of the weights that it starts from where they are another run's."""
    names = (*FINGERPRINTS, "init_fingerprint") if run.spec.get("init_from") else FINGERPRINTS
    return [fingerprint(run, name) for name in names]


def _shares_content(run: Run, other: Run) -> bool:
    """Whether two runs with the same settings have, as far as `run` knows it, the same data, model and start."""
    if not run.spec:
        return False
    if None in _fingerprints(run):
        return flat(run.spec) == flat(other.spec)
    return content(run) == content(other)


def _differs(key: str, block: list[Group]) -> bool:
    if key in PLACES and len({found.fingerprint(f"{SECTION[key]}_fingerprint") for found in block}) < 2:
        return False
    values: dict[str | None, set[str]] = {}
    is_everywhere = all(key in found.identity for found in block)
    for found in block:
        if key in found.identity:
            values.setdefault(None if is_everywhere else found.part("method"), set()).add(_key(found.identity[key]))
    return any(len(there) > 1 for there in values.values())


def _leaves(mapping: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if key in IGNORED:
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _result(run: Run) -> dict[str, Any]:
    assert run.result is not None  # a finished run has a result
    return run.result


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
