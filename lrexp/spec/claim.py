"""A published claim as a file: who says it, how it is tried here, and what would count as seeing it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lrexp.spec import shipped, yaml_text
from lrexp.spec.convert import from_mapping, unknown
from lrexp.spec.errors import InputError
from lrexp.spec.plain import refuse_code

FOLDER = "claim"


@dataclass(frozen=True)
class Check:
    """What is measured of two sides, and how the first stands to the second.

    `metric` names a number of a run: a metric (accuracy), `costs.NAME` of result.json, or `curve.NAME`, the mean of
    what metrics.jsonl has under NAME. The relation better: the difference, in the metric's own sense, is above
    `margin`; equal: it lies within it on both sides; less: the first is at most `margin` times the second.
    """

    metric: str
    first: str
    second: str
    relation: Literal["better", "equal", "less"]
    margin: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for a margin that leaves nothing to show."""
        if self.margin < 0 or (self.relation != "better" and self.margin == 0):
            raise ValueError(f"margin is {self.margin}: it is above 0 for {self.relation}, and not below 0 for better")


@dataclass(frozen=True)
class Claim:
    """A claim. `setting` are the words of all runs, `sides` those of each side, all in the grammar of `lrexp train`."""

    name: str
    paper: str  # arXiv number
    where: str  # section, table or figure
    claim: str  # in our words
    scaled: str  # what was scaled down, and what that may break
    setting: tuple[str, ...]
    sides: dict[str, tuple[str, ...]]
    checks: tuple[Check, ...]
    seeds: int = 5

    def __post_init__(self) -> None:
        """Raises ValueError for sides that are not there, and for too few seeds to judge by."""
        if self.seeds < 3:
            raise ValueError(f"seeds is {self.seeds}: an interval needs at least 3")
        for check in self.checks:
            for side in (check.first, check.second):
                if side not in self.sides:
                    raise ValueError(f"checks: {side} is no side; they are {', '.join(self.sides)}")

    def words(self, side: str) -> list[str]:
        """The words of one side's sweep."""
        return [*self.setting, *self.sides[side], f"seed={','.join(str(seed) for seed in range(1, self.seeds + 1))}"]


def names() -> tuple[str, ...]:
    """The claims that come with lrexp, sorted."""
    return tuple(sorted(file.stem for file in (shipped.folder() / FOLDER).glob("*.yaml")))


def read(word: str) -> Claim:
    """A claim by its name or its file. Raises InputError, with the nearest name, where there is none."""
    if word.endswith((".yaml", ".yml")):
        return parse(yaml_text.read_file(Path(word)), word)
    if word not in names():
        raise InputError(unknown(f"replicate {word}", word, names(), "claim"))
    return parse(yaml_text.read_file(shipped.folder() / FOLDER / f"{word}.yaml"), word)


def parse(values: dict[str, object], where: str) -> Claim:
    """A checked claim from plain values. Raises InputError."""
    refuse_code(values, f"{where}: ")
    return from_mapping(Claim, values, f"{where}: ")
