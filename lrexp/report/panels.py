"""Small multiples: the groups that can be compared stand in one panel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from lrexp.report.group import Group
from lrexp.report.labels import ground

MOST_COLUMNS = 3


@dataclass(frozen=True)
class Panel:
    """Groups on one dataset, which they read in one form, and one model; `title` names both."""

    title: str
    groups: list[Group]


def panels(groups: Sequence[Group], apart: Callable[[Group], Hashable] = lambda _: None) -> list[Panel]:
    """The panels in the order of their first groups; what `apart` gives differs between them too."""
    found: dict[Hashable, list[Group]] = {}
    for one in groups:
        found.setdefault((ground(one), apart(one)), []).append(one)
    content: dict[tuple[str, str], set[str]] = {}
    for one in groups:
        dataset, model, data = ground(one)
        content.setdefault((dataset, model), set()).add(data)
    return [Panel(_title(members[0], content), members) for members in found.values()]


def shape(panels: int) -> tuple[int, int]:
    """Rows and columns for a number of panels."""
    columns = min(panels, MOST_COLUMNS)
    return -(-panels // columns), columns


def _title(one: Group, content: dict[tuple[str, str], set[str]]) -> str:
    dataset, model, data = ground(one)
    return f"{dataset}, {model}{f', data {data[:6]}' if len(content[dataset, model]) > 1 else ''}"
