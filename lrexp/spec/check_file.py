"""What a YAML file from outside of lrexp may hold: values and names, nothing that acts."""

from __future__ import annotations

import re
from typing import Any

from lrexp.spec import shipped
from lrexp.spec.choice import NO_FIELDS, Text
from lrexp.spec.convert import number, unknown
from lrexp.spec.errors import InputError
from lrexp.spec.plain import refuse_code

NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,79}", re.ASCII)  # stands in names of folders
WORDS = ("null", "true", "false", "nan", "inf", "none")
UNNAMED = ("training", "hardware", "experiment")  # groups whose sections have no name


def check_text(group: str, text: Text) -> None:
    """Raises InputError for a file name that cannot be typed, code, look-ups, and keys that mean nothing in a group."""
    where = f"{text.file}: "
    name = text.file.stem
    if not NAME.fullmatch(name) or name.lower() in WORDS or number(name) is not None:
        raise InputError(
            f"{where}a choice's file is named by letters, digits, _, - and ., and is no number or constant"
        )
    refuse_code(text.values, where)
    if text.package not in (None, "_global_" if group == "experiment" else "_group_"):
        raise InputError(f"{where}'@package {text.package}': a {group} is not placed elsewhere")
    if group == "experiment":
        _check_experiment(text.values, where)
    elif "defaults" in text.values:
        raise InputError(f"{where}only an experiment has a list of defaults")
    if group not in UNNAMED and not isinstance(text.values.get("name"), str):
        raise InputError(f"{where}name is missing: the {group} that it sets, or the file's own name for a new one")
    if group in UNNAMED and "name" in text.values:
        raise InputError(f"{where}name: a {group} has none but its file's")


def _check_experiment(values: dict[str, Any], where: str) -> None:
    sections = [group for group in shipped.groups() if group != "experiment"]
    for key, value in values.items():
        if key not in (*sections, "seed", "init_from", *NO_FIELDS):
            raise InputError(where + unknown(key, key, [*sections, "seed", "init_from", "defaults"], "key", "Keys"))
        if key in sections and not isinstance(value, dict):
            raise InputError(f"{where}{key}: holds no keys. A choice of {key} stands in the list of defaults")
    entries = values.get("defaults", [])
    if not isinstance(entries, list):
        raise InputError(f"{where}defaults is a list of lines `- override /GROUP: NAME`")
    for entry in entries:
        if entry == "_self_":
            continue
        if not isinstance(entry, dict) or len(entry) != 1 or not isinstance(next(iter(entry.values())), str):
            raise InputError(f"{where}defaults: {entry}: a line is `- override /GROUP: NAME`")
        group = default_group(next(iter(entry)))
        if group not in sections:
            raise InputError(where + unknown(f"defaults: {group}", group, sections, "group", "Groups"))


def default_group(key: str) -> str:
    """The group that a line of a defaults list is about."""
    return key.removeprefix("override ").strip().lstrip("/")
