"""The value that a paper reports for an experiment, out of the header of the experiment's file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lrexp.report.group import Group
from lrexp.spec import shipped

COPIED = "copied from paper"
CHOSEN = ("method", "model", "dataset")
EXPECTED = re.compile(r"Expected: (?P<metric>\w+) (?P<value>\d+\.\d+)[, ]")
SOURCE = re.compile(r"Paper: (?P<source>.+?, column [^:]+): ")


@dataclass(frozen=True)
class Reported:
    """A paper's value, where it stands in the paper, and the experiment's settings that our runs do not keep."""

    value: float
    source: str
    changed: tuple[str, ...]


def reported(found: Group) -> Reported | None:
    """What the paper of the group's shipped experiment reports for its metric.

    None where the experiment repeats no paper, and where the runs have another method, model or data than it.
    """
    name = found.experiment
    if name is None or name not in shipped.names("experiment"):
        return None
    experiment = shipped.choice("experiment", name)
    header = "\n".join(experiment.header)
    expected, source = EXPECTED.search(header), SOURCE.search(header)
    if expected is None or source is None or expected["metric"] != found.metric:
        return None
    if any(found.identity.get(f"{section}.name") != chosen for section, chosen in _chosen(experiment.values)):
        return None
    changed = [
        field.key
        for field in experiment.fields
        if field.key in found.identity and found.identity[field.key] != field.default
    ]
    return Reported(float(expected["value"]), source["source"], tuple(changed))


def _chosen(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names of method, model and data as specs have them: a choice may be a setting of another name."""
    for entry in values["defaults"]:
        for group, choice in entry.items():
            section = group.removeprefix("override /")
            if section in CHOSEN:
                yield section, shipped.choice(section, choice).section_name
