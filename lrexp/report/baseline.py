"""Each row against the baseline's row of its block: paired tests, Holm's correction, and which mean may be bold.

A block is what can be compared at all: one dataset and model, by name and content, one metric, one split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lrexp.report.group import FINGERPRINTS, Group, differing
from lrexp.report.predictions import right_answers
from lrexp.report.significance import ALPHA, OVER_ITEMS, Test, holm, over_items, over_seeds
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError
from lrexp.spec.result import LOWER_IS_BETTER


@dataclass(frozen=True)
class Comparison:
    """A row's test against the baseline, and its p-value after correction for the tests of its block."""

    test: Test
    corrected: float | None = None

    @property
    def significant(self) -> bool:
        """Whether runs of the method differ from the baseline's: a test over items cannot say that."""
        return self.corrected is not None and self.corrected <= ALPHA and self.test.name != OVER_ITEMS


def against(groups: Sequence[Group], baseline: str) -> list[Comparison | None]:
    """For each group its comparison with the baseline of its block; None for the baseline, and where there is none.

    Raises InputError if no group has that method, or several of a block have it.
    """
    methods = sorted({method for found in groups if (method := found.part("method"))})
    if baseline not in methods:
        raise InputError(unknown(f"table: --baseline {baseline}", baseline, methods, "method of the table", "There"))
    compared: list[Comparison | None] = [None] * len(groups)
    for indices in blocks(groups):
        reference = _reference([groups[index] for index in indices], baseline)
        if reference is None:
            continue
        others = [
            i for i in indices if groups[i] is not reference and groups[i].summary and not _is(groups[i], baseline)
        ]
        tests = _corrected([Comparison(compare(groups[i], reference)) for i in others])
        for index, found in zip(others, tests, strict=True):
            compared[index] = found
    return compared


def compare(ours: Group, theirs: Group) -> Test:
    """The test over the seeds that both have; over items where both are one run and their items are the same."""
    if len(ours.finished) == len(theirs.finished) == 1:
        answers = right_answers(ours.finished[0], theirs.finished[0], ours.metric)
        if answers is not None:
            return over_items(*answers)
    shared = [seed for seed in ours.values if seed in theirs.values]
    return over_seeds([ours.values[seed] - theirs.values[seed] for seed in shared])


def bold(groups: Sequence[Group], compared: Sequence[Comparison | None], baseline: str) -> list[bool]:
    """Which means are bold: the best of a block, if it is significantly better than the baseline.

    The baseline itself, if it is the best, only if all others with a mean differ significantly.
    """
    found = [False] * len(groups)
    for indices in blocks(groups):
        known = [index for index in indices if groups[index].summary]
        if not known or not any(_is(groups[index], baseline) for index in known):
            continue
        best = (min if groups[known[0]].metric in LOWER_IS_BETTER else max)(_mean(groups[i]) for i in known)
        for index in (index for index in known if _mean(groups[index]) == best):
            rivals = [i for i in known if i != index] if _is(groups[index], baseline) else [index]
            found[index] = bool(rivals) and all((one := compared[i]) and one.significant for i in rivals)
    return found


def blocks(groups: Sequence[Group]) -> list[list[int]]:
    """The indices of the groups of each block."""
    found: dict[tuple[object, ...], list[int]] = {}
    for index, group in enumerate(groups):
        names = (group.part("dataset"), group.part("model"), group.metric, group.get("evaluated_on"))
        found.setdefault((*names, *(group.fingerprint(name) for name in FINGERPRINTS)), []).append(index)
    return list(found.values())


def _reference(block: list[Group], baseline: str) -> Group | None:
    """The baseline's one group of a block, None where it has none with a mean."""
    found = [group for group in block if _is(group, baseline) and group.summary]
    if len(found) > 1:
        keys = differing(found)
        where = f"{found[0].part('dataset')}, {found[0].part('model')}"
        raise InputError(
            f"table: --baseline {baseline} is ambiguous: {len(found)} rows of {where} have it and differ in "
            f"{', '.join(keys) or 'content'}; --tuned {','.join(keys)} chooses one on held-out data"
        )
    return found[0] if found else None


def _corrected(tests: list[Comparison]) -> list[Comparison]:
    known = [index for index, found in enumerate(tests) if found.test.p_value is not None]
    corrected = holm([p_value for found in tests if (p_value := found.test.p_value) is not None])
    values = dict(zip(known, corrected, strict=True))
    return [replace(found, corrected=values.get(index)) for index, found in enumerate(tests)]


def _is(group: Group, baseline: str) -> bool:
    return group.part("method") == baseline


def _mean(group: Group) -> float:
    assert group.summary is not None
    return group.summary.mean
