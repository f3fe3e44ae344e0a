"""The words of a line as specs, one or those of a sweep. A budget among them becomes a size of the method here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrexp.methods import catalog
from lrexp.spec import compose
from lrexp.spec.budget import Budget, is_budget, split
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.sweep import expand

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
    """The specs of a sweep, each with the words that set it apart, and the sweep's folder if one is given."""
    if files := [word for word in words if "=" not in word]:
        raise InputError(f"train -m: '{files[0]}' is no override; a sweep is composed from key=value words")
    lines = expand(words)
    swept = [i for i in range(len(lines[0])) if len({line[i] for line in lines}) > 1]
    known: Sizes = {}
    found = [composed(line, known) for line in lines]
    specs = [spec for spec, _ in found]
    refuse_mixed_partners(specs, words)
    labels = [" ".join(line[i] for i in swept) or spec.method["name"] for line, spec in zip(lines, specs, strict=True)]
    if any(map(is_budget, words)):
        labels = [f"{label} {size_of(spec)}" for spec, label in zip(specs, labels, strict=True)]
    return list(zip(specs, labels, strict=True)), found[0][1]


def size_of(spec: RunSpec) -> str:
    """The size that a budget has set: r=12."""
    key = catalog.load(spec.method["name"]).size
    assert key is not None
    return f"{key}={spec.method[key]}"


def refuse_mixed_partners(specs: list[RunSpec], words: list[str]) -> None:
    """Raises InputError if methods of different families would fill in different models or data sets."""
    given = {word.partition("=")[0] for word in words}
    if given & {"model", "dataset", "experiment"}:
        return
    pairs = {(spec.model["name"], spec.dataset["name"]) for spec in specs}
    if len(pairs) > 1:
        shown = " and ".join(f"{model} with {dataset}" for model, dataset in sorted(pairs))
        raise InputError(
            f"the sweep's methods take different defaults ({shown}): set model= and dataset= for all of them"
        )
