"""The words of a line as specs, one or those of a sweep. A budget among them becomes a size of the method here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrexp.methods import catalog
from lrexp.spec import compose
from lrexp.spec.budget import Budget, is_budget, split
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.sweep import PART, expand

Found = tuple[RunSpec, str | None]  # a spec, and the output folder if one is given
Sizes = dict[str, dict[str, Any]]  # what budgets have come to, by what decides it


def composed(words: Iterable[str], known: Sizes | None = None) -> Found:
    """The run that `key=value` words ask for. Raises InputError."""
    budget, others = split(words)
    return _within(compose.compose(others, catalog.families()), budget, others, known)


def overridden(spec: RunSpec, words: Iterable[str]) -> Found:
    """A spec with other values, or with the size that a budget allows. Raises InputError."""
    budget, others = split(words)
    return _within(compose.override(spec, others), budget, others, None)


def _within(found: Found, budget: Budget | None, words: list[str], known: Sizes | None) -> Found:
    if budget is None:
        return found
    from lrexp.plan.budget import size_key, within

    key = size_key(found[0], budget)
    if given := [word for word in words if word.partition("=")[0].strip() == key]:
        raise InputError(f"{given[0]}: the budget sets {key}; leave one of them out")
    return within(found[0], budget, {} if known is None else known), found[1]


def read(words: list[str]) -> tuple[RunSpec, str | None, dict[str, Any] | None]:
    """The spec, the output folder if given, and the provenance if the spec comes from a file."""
    if PART in words:
        raise InputError("lrexp train: a + begins a part of a sweep; add -m")
    files = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(files) > 1:
        raise InputError(
            f"lrexp train: one spec file at most, found {files[0]} and {files[1]}. An override reads key=value."
        )
    if not files:
        return *composed(overrides), None
    if not files[0].endswith((".yaml", ".yml")):
        raise InputError(f"lrexp train: '{files[0]}' is neither key=value nor a file that ends in .yaml.")
    spec, then = RunSpec.read(Path(files[0]))
    return *overridden(spec, overrides), then


def compose_all(words: list[str]) -> tuple[list[tuple[RunSpec, str]], str | None]:
    """The specs of a sweep, each once, with the words that set it apart, and the sweep's folder if one is given."""
    if files := [word for word in words if "=" not in word and word != PART]:
        raise InputError(f"train -m: '{files[0]}' is no override; a sweep is composed from key=value words")
    lines = expand(words)
    common = set(lines[0]).intersection(*lines)
    known: Sizes = {}
    runs = [composed(line, known) for line in lines]
    refuse_mixed_partners([spec for spec, _ in runs], lines)
    found: dict[str, tuple[RunSpec, str]] = {}
    for line, (spec, _) in zip(lines, runs, strict=True):
        label = " ".join(word for word in line if word not in common) or spec.method["name"]
        label = f"{label} {size_of(spec)}" if any(map(is_budget, line)) else label
        found.setdefault(json.dumps(spec.to_dict(), sort_keys=True), (spec, label))
    return list(found.values()), runs[0][1]


def size_of(spec: RunSpec) -> str:
    """The size of the method, that a budget sets: r=12. Empty for a method without one."""
    key = catalog.load(spec.method["name"]).size
    return "" if key is None or spec.method[key] is None else f"{key}={spec.method[key]}"


def refuse_mixed_partners(specs: list[RunSpec], lines: list[list[str]]) -> None:
    """Raises InputError if methods of different families would fill in different models or data sets."""
    pairs = {
        (spec.model["name"], spec.dataset["name"])
        for spec, line in zip(specs, lines, strict=True)
        if not {word.partition("=")[0] for word in line} & {"model", "dataset", "experiment"}
    }
    if len(pairs) > 1:
        shown = " and ".join(f"{model} with {dataset}" for model, dataset in sorted(pairs))
        raise InputError(
            f"the sweep's methods take different defaults ({shown}): set model= and dataset= for all of them"
        )
