"""The largest batch whose planned peak stays within a budget."""

from __future__ import annotations

from dataclasses import replace

from lrexp.plan.plan import Plan, plan
from lrexp.plan.search import search
from lrexp.spec.run_spec import RunSpec

MOST = 2**20  # items: where the memory hardly grows with the batch, no more are looked at


def largest(spec: RunSpec, budget: int) -> tuple[int, Plan]:
    """The largest per_device_train_batch_size that fits, and its plan; 0 and the plan of 1 where none does."""
    plans: dict[int, Plan] = {}

    def peak(size: int) -> int:
        if size not in plans:
            plans[size] = plan(sized(spec, size))
        return plans[size].peak

    found = search(peak, budget, MOST)
    return found, plans[max(found, 1)]


def sized(spec: RunSpec, size: int) -> RunSpec:
    """The spec with micro-batches of so many items."""
    return replace(spec, training=replace(spec.training, per_device_train_batch_size=size))
