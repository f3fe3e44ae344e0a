"""What a config can choose among: shipped files, methods of other packages, own files. No Hydra and no torch.

`beside` puts the folders of --config-dir beside the rest for as long as its block runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lrexp.spec import own, packages, shipped
from lrexp.spec.check_file import NAME
from lrexp.spec.choice import Choice, Field, annotation
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError
from lrexp.spec.shipped import folder, groups

__all__ = [
    "Choice",
    "Field",
    "annotation",
    "beside",
    "choice",
    "choices",
    "folder",
    "groups",
    "is_shipped",
    "names",
    "section",
    "section_names",
]

_own: own.Choices = {}


@contextmanager
def beside(folders: Iterable[str | Path]) -> Iterator[None]:
    """Within the block the choices in these folders are there too. Raises InputError for what is wrong in one."""
    global _own
    before, _own = _own, own.find(Path(folder) for folder in folders)
    try:
        yield
    finally:
        _own = before


def names(group: str) -> tuple[str, ...]:
    """The names of a group's choices, sorted. Raises InputError for an unknown group."""
    declared = packages.methods() if group == "method" else ()
    return tuple(sorted({*shipped.names(group), *declared, *_own.get(group, ())}))


def choices(group: str) -> list[Choice]:
    """All choices of a group. Raises InputError for an unknown group."""
    return [choice(group, name) for name in names(group)]


def choice(group: str, name: str) -> Choice:
    """One choice. Raises InputError, with the nearest name, if there is none."""
    if is_shipped(group, name):
        return shipped.choice(group, name)
    if name not in names(group):
        raise InputError(unknown(f"{group}={name}", name, names(group), group))
    return _own[group][name] if name in _own.get(group, ()) else packages.methods()[name].choice


def is_shipped(group: str, name: str) -> bool:
    """Whether a choice comes with lrexp. Raises InputError for an unknown group."""
    return name in shipped.names(group)


def section_names(group: str) -> list[str]:
    """What a section of a spec can be called: the choices that are no settings of another."""
    return [found.name for found in choices(group) if found.section_name == found.name]


def section(group: str, name: str) -> Choice | None:
    """The choice that a spec's section is by its name, or None.

    A model or a data set may have any name: a frozen spec holds all that is needed of it, wherever its file is now.
    """
    known = name in names(group) and choice(group, name).section_name == name
    if known:
        return typed(choice(group, name))
    if group in shipped.OPEN and NAME.fullmatch(name):
        return Choice(group, name, (), shipped.usual(group), name, whole=False)
    return None


def typed(chosen: Choice) -> Choice:
    """The choice with every key that a command line may set: a new model has those of the shipped ones too."""
    return chosen if chosen.whole else chosen.beside(shipped.usual(chosen.group))
