"""Plain values, which are all that a config may hold: what is none, and what a value of some type may look like."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_origin

from lrexp.spec.convert import join
from lrexp.spec.errors import InputError

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")


def refuse_code(value: object, where: str = "", key: str = "") -> None:
    """Raises InputError where a mapping names code to run or asks for more than a value of its own file."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if str(name).startswith("_") and str(name).endswith("_"):
                raise InputError(
                    f"{where}{join(key, name)}: a config chooses by name and runs no code; there is no {name}"
                )
            refuse_code(item, where, join(key, name))
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_code(item, where, key)
    elif isinstance(value, str):
        if "${" in value and not REFERENCE.fullmatch(value):
            raise InputError(
                f"{where}{key}: {value[:60]} is refused: a config looks nothing up but a ${{section.key}} of its own"
            )
        if "\n" in value and value.replace("\n", "").isprintable():
            raise InputError(f"{where}{key}: has a line break; a template spells it \\n (in YAML within single quotes)")
        if not value.isprintable() or any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{where}{key}: {value[:60]!a} has characters that are no text")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}{key}: {value} is not a finite number")


def plain(value: Any) -> Any:
    """The value with lists in place of tuples, as YAML has them, within a map too."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def put(mapping: dict[str, Any], key: str, value: Any) -> None:
    """Puts a value into nested mappings at a dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        mapping = mapping.setdefault(parent, {})
    mapping[last] = value


def takes_text_only(annotation: Any) -> bool:
    """Whether a value of this type is text (or null), so that `0123` on a command line is no number."""
    return annotation is str or annotation == (str | None)


def is_map(annotation: Any) -> bool:
    """Whether the type is a map of names to values, into which single keys may be put."""
    return get_origin(annotation) is dict
