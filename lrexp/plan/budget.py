"""A budget of parameters or memory, spent by each method's own size: the rank, the density, the dimension.

The size is the largest whose plan stays within the budget, and becomes a value of the spec like any other: a run that
was given it by hand is the same run. Ranks that data decide are counted as `Method.bound` has them.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, get_type_hints

from lrexp.methods import catalog
from lrexp.plan.plan import plan, trainable_parameters
from lrexp.plan.search import search
from lrexp.report import quantity
from lrexp.spec.budget import Budget
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec

GRAIN = 1000  # a size that is a share is a number of thousandths, below 1
MOST = 10**8  # of ranks or dimensions: beyond those of any model
APART = ("learning_rate", "save_steps", "logging_steps")  # they take nothing
Taken = tuple[int, int]  # trained parameters, bytes at the peak of training; 0 where nobody asks


def within(spec: RunSpec, budget: Budget, known: dict[str, dict[str, Any]]) -> RunSpec:
    """The spec with the largest size of its method that the budget allows.

    What is found is kept in `known`: specs that differ in seed, rate and tracking alone have one size. Raises
    InputError where the method has no size, where the smallest is too large, and where the largest still leaves room,
    so that the budget would decide nothing.
    """
    found = spec.to_dict()
    training = {key: value for key, value in found["training"].items() if key not in APART}
    what = json.dumps([{**found, "training": training, "seed": 0, "tracking": None}, str(budget)], sort_keys=True)
    if what not in known:
        known[what] = {size_key(spec, budget).partition(".")[2]: size(spec, budget)}
    return replace(spec, method={**spec.method, **known[what]})


def size_key(spec: RunSpec, budget: Budget) -> str:
    """The key of a spec that a budget sets. Raises InputError where the method has none."""
    name = spec.method["name"]
    key = catalog.load(name).size
    if key is None:
        raise InputError(f"{shown(budget)}: method={name} has no size that a budget could set")
    return f"method.{key}"


def size(spec: RunSpec, budget: Budget) -> int | float:
    """The largest value of the method's size within the budget. Raises InputError, as `within` says."""
    key = size_key(spec, budget).partition(".")[2]
    is_share = get_type_hints(catalog.load(spec.method["name"]).Hyperparameters)[key] is float
    grain, most = (GRAIN, GRAIN - 1) if is_share else (1, MOST)
    own = (spec.method[key] or 0) * grain  # the value it has so far is known to be possible
    seen: dict[int, Taken | None] = {}

    def sized(size: int) -> RunSpec:
        return replace(spec, method={**spec.method, key: size / grain if is_share else size})

    def share(size: int) -> float:
        """What a size takes of the budget; nothing where the method calls it too small, and no end where too large."""
        if size not in seen:
            seen[size] = taken(sized(size), budget)
        found = seen[size]
        if found is None:
            return 0.0 if size < own else math.inf
        return max(found[0] / (budget.trainable_parameters or math.inf), found[1] / (budget.memory or math.inf))

    trainable_parameters(spec)  # says what is wrong with the spec itself
    found = most if share(most) <= 1 else search(share, 1.0, most)
    where = f"{shown(budget)}: method={spec.method['name']} takes"
    if seen.get(found) is None:
        least = min(size for size, took in seen.items() if took is not None)
        what = f"{figures(seen[least], budget)} with method.{key}={sized(least).method[key]:g}"
        raise InputError(f"{where} {what}, the least that it can")
    if found == most or seen[found + 1] is None:
        raise InputError(f"{where} no more than {figures(seen[found], budget)}, whatever method.{key} is")
    return sized(found).method[key]


def taken(spec: RunSpec, budget: Budget) -> Taken | None:
    """What a spec takes of what the budget bounds; None where it cannot run."""
    try:
        if budget.memory is None:
            return trainable_parameters(spec), 0
        found = plan(spec)
    except InputError:
        return None
    return found.trainable_parameters, found.peak


def shown(budget: Budget) -> str:
    """The words of a budget."""
    bounds = vars(budget).items()
    return " ".join(f"budget.{name}={bound:.10g}" for name, bound in bounds if bound is not None)


def figures(found: Taken | None, budget: Budget) -> str:
    """What a size takes, for a reader."""
    assert found is not None
    count, memory = (f"{quantity.count(found[0])} trained parameters", f"{quantity.memory(found[1])} of memory")
    return " and ".join([count] * bool(budget.trainable_parameters) + [memory] * bool(budget.memory))
