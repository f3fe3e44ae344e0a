"""The choices that come with lrexp: conf/<group>/*.yaml."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lrexp.spec import yaml_text
from lrexp.spec.choice import Choice, Field, read
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError

OPEN = ("model", "dataset")  # groups whose names stand for no code of ours: anyone may bring others


@cache
def folder() -> Path:
    """Where the package lrexp.conf lies, in a checkout or in an installed wheel."""
    found = package_folder("lrexp.conf")
    if found is None:
        raise InputError("lrexp.conf is not installed: run `pip install -e .` in the checkout")
    return found


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, or None."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


@cache
def defaults() -> dict[str, str | None]:
    """What config.yaml chooses in each group, in its order."""
    entries = yaml_text.read_file(folder() / "config.yaml")["defaults"]
    return {group: name for entry in entries if isinstance(entry, dict) for group, name in entry.items()}


def groups() -> tuple[str, ...]:
    """The names of the groups, in the order of config.yaml."""
    return tuple(defaults())


@cache
def names(group: str) -> tuple[str, ...]:
    """The names of a group's shipped choices, sorted. Raises InputError for an unknown group."""
    if group not in groups():
        raise InputError(unknown(group, group, groups(), "group", "Groups"))
    return tuple(sorted(file.stem for file in (folder() / group).glob("*.yaml")))


@cache
def choice(group: str, name: str) -> Choice:
    """One shipped choice."""
    text = read(folder() / group / f"{name}.yaml")
    return Choice(group, name, text.header, text.fields(), text.values.get("name", name), text.file, values=text.values)


@cache
def usual(group: str) -> tuple[Field, ...]:
    """The keys that shipped choices of an open group have: with their type where all agree on it, else of any.

    All may be null: only the floor that owns the section knows which may, and it is asked in any case.
    """
    found: dict[str, Field] = {}
    for name in names(group):
        for field in choice(group, name).fields:
            known = found.setdefault(field.key, field)
            if known.annotation != field.annotation:
                known = replace(known, type="", annotation=Any)
            if known.meaning != field.meaning:
                known = replace(known, meaning="")
            found[field.key] = known
    return tuple(replace(field, paper="", annotation=_or_null(field.annotation)) for field in found.values())


def _or_null(annotation: Any) -> Any:
    return annotation if annotation is Any else annotation | None
