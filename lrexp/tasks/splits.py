"""Which rows are trained on, evaluated on and selected on.

A limit on the rows takes the first ones of a fixed shuffled order, the same for every seed. What is held out of train
depends on the number of rows and, but for packed text, the run's seed alone. Raw PCG64 output is used: NumPy keeps it
over its versions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np

from lrexp.spec.errors import InputError


class Limits(Protocol):
    """What a dataset section says of how many items are used."""

    @property
    def max_train_samples(self) -> int | None: ...  # noqa: D102
    @property
    def max_eval_samples(self) -> int | None: ...  # noqa: D102
    @property
    def validation_fraction(self) -> float: ...  # noqa: D102


class Rows(Protocol):
    """Items of a split, of which some can be taken by their positions."""

    def __len__(self) -> int: ...
    def take(self, positions: np.ndarray) -> Self: ...  # noqa: D102


P = TypeVar("P", bound=Rows)


@dataclass(frozen=True)
class Roles:
    """What each split is for; `held_out` are those that the data lacks and train must give."""

    reported: str
    selection: str | None
    held_out: tuple[str, ...]


def roles(there: Sequence[str] | Mapping[str, object], hold_out_selection: bool) -> Roles:
    """Test is reported where there is one, else validation; a reported split is never selected on."""
    held_out = () if "validation" in there else ("validation",)
    if "test" in there:
        return Roles("test", "validation", held_out)
    if hold_out_selection:
        return Roles("validation", "selection", (*held_out, "selection"))
    return Roles("validation", None, held_out)


def shuffled(rows: int, stream: str) -> np.ndarray:
    """Row numbers 0 to rows - 1 in the order that the name of a stream decides, (rows,) int64."""
    seed = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "big")
    return np.argsort(np.random.PCG64(seed).random_raw(rows), kind="stable")


def held_out_size(rows: int, data: Limits) -> int:
    """How many rows each held-out split takes from a train split of so many rows: a share of what is trained on."""
    size = max(1, round(data.validation_fraction * min(rows, data.max_train_samples or rows)))
    return min(size, data.max_eval_samples or size)


def pool(split: str, rows: int, data: Limits, held_out: int) -> np.ndarray:
    """The rows of a split that any run of this dataset section uses, whatever its seed: ascending row numbers.

    `held_out` is the number of splits that train must give.
    """
    limit = data.max_eval_samples
    if split == "train":
        limit = (
            None if data.max_train_samples is None else data.max_train_samples + held_out * held_out_size(rows, data)
        )
    if limit is None or limit >= rows:
        return np.arange(rows)
    return np.sort(shuffled(rows, "samples")[:limit])


def divided(
    pooled: Mapping[str, P],
    rows: int,
    roles: Roles,
    data: Limits,
    seed: int,
    in_order: bool = False,
    kept: np.ndarray | None = None,
) -> dict[str, P]:
    """The splits of a run out of the pool of each split that the data have: train gives what they lack.

    Args:
        pooled: the items that `pool` names.
        rows: rows of train before any limit.
        roles: what each split is for.
        data: limits of the dataset section.
        seed: the run's.
        in_order: rows of train follow one another, so that the last ones are held out.
        kept: (items of train's pool,) bool, those that are never held out.

    Raises:
        InputError: nothing would be left to train on.
    """
    if not roles.held_out:
        return dict(pooled)
    train = pooled["train"]
    free = np.arange(len(train)) if kept is None else np.flatnonzero(~kept)
    size = held_out_size(rows, data)
    held = (
        hold_out_tail(len(free), size, roles.held_out) if in_order else hold_out(len(free), size, roles.held_out, seed)
    )
    positions = {name: free[places] for name, places in held.items()}
    if kept is not None:
        positions["train"] = np.sort(np.concatenate([np.flatnonzero(kept), positions["train"]]))
    return {**pooled, **{name: train.take(places) for name, places in positions.items()}}


def hold_out(pooled: int, size: int, names: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Positions within the pool of train for "train" and each held-out split, disjoint, ascending.

    Raises:
        InputError: nothing would be left to train on.
    """
    _refuse_too_few(pooled, size, names)
    order = shuffled(pooled, f"{seed}:split")
    parts = {name: order[i * size : (i + 1) * size] for i, name in enumerate(names)}
    parts["train"] = order[size * len(names) :]
    return {name: np.sort(part) for name, part in parts.items()}


def hold_out_tail(pooled: int, size: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The same for rows that follow one another: the last ones are held out, those of the first name at the very end.

    A row of running text between two rows that are trained on would be all but known.

    Raises:
        InputError: nothing would be left to train on.
    """
    _refuse_too_few(pooled, size, names)
    positions = np.arange(pooled)
    parts = {name: positions[pooled - (i + 1) * size : pooled - i * size] for i, name in enumerate(names)}
    return {**parts, "train": positions[: pooled - size * len(names)]}


def _refuse_too_few(pooled: int, size: int, names: Sequence[str]) -> None:
    if pooled <= size * len(names):
        raise InputError(f"train has {pooled} rows, too few to hold out {' and '.join(names)}: add a validation split")
