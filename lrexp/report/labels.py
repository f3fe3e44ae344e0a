"""What groups are called in a picture: the method, and the keys in which the groups of one method differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lrexp.report.group import Group, differing
from lrexp.report.render import shown
from lrexp.spec.convert import clip

BARE = {"name", "path", "hub", "revision"}  # these say little without their section
MOST = 40  # characters of a value
MOST_LEFT_OUT = 6  # groups that a note names


@dataclass(frozen=True)
class Label:
    """The method, and what tells the group from others of the method ("r=8, learning_rate=0.001"), often nothing."""

    method: str
    detail: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.method, self.detail)))


def short_keys(keys: Collection[str], taken: Collection[str] = BARE) -> dict[str, str]:
    """method.r as r, where no other key ends so and the end is not `taken`."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 and end not in taken else key for key in keys}


def labels(groups: Sequence[Group], without: Collection[str] = ()) -> list[Label]:
    """A label for each group; the keys in `without` are not named.

    Groups on one ground that would be called the same are told apart by the folder of their first run.
    """
    methods: dict[str, list[Group]] = {}
    for found in groups:
        methods.setdefault(found.part("method") or "?", []).append(found)
    keys = {method: [key for key in differing(found) if key not in without] for method, found in methods.items()}
    names = short_keys(list(dict.fromkeys(key for found in keys.values() for key in found)))
    texts = [_label(found, keys[found.part("method") or "?"], names) for found in groups]
    places = [(text, *ground(found)) for text, found in zip(texts, groups, strict=True)]
    often = Counter(places)
    return [
        text if often[place] == 1 else replace(text, detail=", ".join(filter(None, (text.detail, _folder(found)))))
        for text, place, found in zip(texts, places, groups, strict=True)
    ]


def left_out(missing: Sequence[Group], groups: Sequence[Group]) -> list[str]:
    """The note on those of `groups` that a picture lacks, none where it has them all."""
    several = len({ground(one) for one in groups}) > 1
    texts = [
        f"{'/'.join(ground(one)[:2])}: {text}" if several else str(text)
        for one, text in zip(groups, labels(groups), strict=True)
        if any(one is other for other in missing)
    ]
    more = [f"and {len(texts) - MOST_LEFT_OUT} more"] * (len(texts) > MOST_LEFT_OUT)
    return [f"left out, no run has the figures: {'; '.join([*texts[:MOST_LEFT_OUT], *more])}"] if texts else []


def ordered(groups: Sequence[Group]) -> list[Group]:
    """By dataset, model and method, and within a method by the values of its differing keys: 0.003 before 0.01."""
    keys = differing(groups)

    def place(found: Group) -> tuple[object, ...]:
        values = [found.identity.get(key) for key in keys]
        return (*ground(found), found.part("method") or "?", *map(_rank, values))

    return sorted(groups, key=place)


def ground(found: Group) -> tuple[str, str, str]:
    """What groups share that can be compared: dataset, model, and the fingerprint of the data."""
    return found.part("dataset") or "?", found.part("model") or "?", found.fingerprint("data_fingerprint") or ""


def _label(found: Group, keys: Sequence[str], names: dict[str, str]) -> Label:
    own = [f"{names[key]}={clip(shown(found.identity[key]), MOST)}" for key in keys if key in found.identity]
    return Label(found.part("method") or "?", ", ".join(own))


def _rank(value: object) -> tuple[int, float, str]:
    """Nothing comes first, then numbers, then the rest."""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return (0, 0.0, "") if value is None else (2, 0.0, shown(value))


def _folder(found: Group) -> str:
    return found.runs[0].folder.name
