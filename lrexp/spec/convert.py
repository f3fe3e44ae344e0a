"""Plain values (from YAML or a command line) to the types of our dataclasses, with errors a person can act on."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lrexp.spec.errors import InputError

NUMBER = re.compile(
    r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][+-]?\d+)?"
)  # YAML 1.1 reads 1e-3 as text; a person means a number
Dataclass = TypeVar("Dataclass")
Value = int | float | bool | str | None | tuple[int | float | bool | str, ...]  # in a map whose keys are not ours
MOST_NAMES = 16  # of what is known, in one message


def convert(value: object, annotation: Any, where: str) -> Any:
    """`value` as `annotation` asks: int, float, bool, str, None, Literal, unions, tuple[X, ...], dict[str, X], object.

    Integers and text such as "1e-3" become floats where a float is asked for; lists become tuples. Text stays text
    where a union takes text. Raises InputError, which begins with `where`, for anything else, NaN and infinity
    included.
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _union(value, get_args(annotation), where)
    if origin is Literal:
        return _literal(value, get_args(annotation), where)
    if origin is tuple:
        return _tuple(value, annotation, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: {_shown(value)} is not {described(annotation)}")
        return {
            _key(key, where): convert(item, get_args(annotation)[1], join(where, key)) for key, item in value.items()
        }
    if is_dataclass(annotation):
        return from_mapping(annotation, value, where)  # pyright: ignore[reportArgumentType]
    return _scalar(value, annotation, where)


def from_mapping(cls: type[Dataclass], mapping: object, where: str) -> Dataclass:
    """An instance of the dataclass `cls` from plain values.

    Raises InputError for an unknown key (with the nearest name), a missing key without a default, a wrong type, and for
    whatever ValueError the dataclass's own checks raise.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where.rstrip(': ') or 'spec'}: {_shown(mapping)} is not a mapping of keys to values")
    known = {field.name: field for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    for key in mapping:
        if key not in known:
            raise InputError(unknown(join(where, key), str(key), known, "key", "Keys"))
    for name, field in known.items():
        if name not in mapping and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{join(where, name)} is missing: {described(_hints(cls)[name])} is needed")
    values = {key: convert(value, _hints(cls)[key], join(where, key)) for key, value in mapping.items()}
    try:
        return cls(**values)
    except InputError:
        raise
    except ValueError as error:
        named = str(error).split(" ")[0].split(".")[0] in known
        raise InputError(join(where, str(error)) if named or not where else f"{where}: {error}") from error


def join(where: str, key: object) -> str:
    """The dotted name of `key` inside `where`, which may also be empty or a file's name with a colon."""
    return f"{where}{'' if not where or where.endswith(' ') else '.'}{key}"


def closest(name: str, names: Iterable[str]) -> str | None:
    """The known name that a person who typed `name` probably meant: a slip, an abbreviation (lr), or a part of it."""
    import difflib  # only where something is wrong

    folded, by_folded = name.lower(), {known.lower(): known for known in names}
    found = [known for known in by_folded if len(name) > 1 and _initials(known) == folded]
    found = found or difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    found = found or [known for known in by_folded if len(name) > 2 and folded in known]
    return by_folded[found[0]] if found else None


def nearest(name: str, names: Iterable[str]) -> str:
    """The question "did you mean 'x'?" with the known name nearest to `name`, or "" where none is near."""
    found = closest(name, names)
    return f"did you mean '{found}'?" if found else ""


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.rsplit(".", 1)[-1].split("_")) if "_" in name else ""


def clip(text: str, length: int = 80) -> str:
    """Text on one line, cut to a length that an error can quote."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def unknown(where: str, name: str, names: Iterable[str], kind: str, plural: str = "Known") -> str:
    """The message for a name that is none of `names`: what is near, and what is known.

    Of `where` only what follows a file's name and a colon is cut to a length: the key must be seen.
    """
    place, colon, key = where.rpartition(": ")
    known = list(names)
    near = nearest(name, known)
    hint = f" {near[0].upper()}{near[1:]}" if near else ""
    shown = ", ".join(known[:MOST_NAMES]) + (", ..." if len(known) > MOST_NAMES else "")
    return f"{place}{colon}{clip(key)}: unknown {kind}.{hint} {plural}: {shown or 'none'}"


def number(text: str) -> int | float | None:
    """The number that `text` spells, or None."""
    if not NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


def described(annotation: Any) -> str:
    """A type in a person's words."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(described(option) for option in get_args(annotation))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if origin is tuple:
        return f"a list of {_plurals.get(get_args(annotation)[0], 'values')}"
    if origin is dict:
        return f"a map of names to {_plurals.get(get_args(annotation)[1], 'values')}"
    return _names.get(annotation, str(annotation))


_names: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_plurals: dict[Any, str] = {int: "whole numbers", float: "numbers", bool: "true or false", str: "text"}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _key(key: object, where: str) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise InputError(f"{where}: the key {_shown(key)} is not a name")
    return str(key)


def _tuple(value: object, annotation: Any, where: str) -> tuple[Any, ...]:
    options = get_args(annotation)
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: {_shown(value)} is not {described(annotation)}")
    if options[-1] is Ellipsis:
        options = (options[0],) * len(value)
    if len(value) != len(options):
        raise InputError(f"{where}: {_shown(value)} has {len(value)} entries: {len(options)} are needed")
    return tuple(
        convert(item, option, f"{where}[{i}]") for i, (item, option) in enumerate(zip(value, options, strict=True))
    )


def _union(value: object, options: tuple[Any, ...], where: str) -> Any:
    if type(value) in options:  # text stays text, and no int becomes a float, where both are allowed
        return _scalar(value, type(value), where)
    rest = [option for option in options if option not in (type(None), str)]
    if len(rest) == 1 and get_origin(rest[0]) is Literal:
        return _literal(value, (*get_args(rest[0]), None), where)
    if not rest:
        return _scalar(value, str, where)
    if len(rest) == 1 and isinstance(value, list | tuple | Mapping):  # its error names the item that is wrong
        return convert(value, rest[0], where)
    for option in rest:
        try:
            return convert(value, option, where)
        except InputError as error:
            if "finite" in str(error):
                raise
    raise InputError(f"{where}: {_shown(value)} is not {' or '.join(described(option) for option in options)}")


def _literal(value: object, allowed: tuple[Any, ...], where: str) -> Any:
    for option in allowed:
        if type(option) is type(value) and option == value:
            return option
    names = ["null" if option is None else str(option) for option in allowed]
    near = nearest(value, names) if isinstance(value, str) else ""
    raise InputError(f"{where}: {_shown(value)} is not one of {', '.join(names)}{': ' * bool(near)}{near}")


def _scalar(value: object, annotation: Any, where: str) -> Any:
    if annotation is object or annotation is Any:
        return value
    if annotation is type(None) and value is None:
        return None
    if annotation is float and not isinstance(value, bool):
        found = number(value.strip()) if isinstance(value, str) else value
        if isinstance(found, int | float):
            return _finite(found, where)
        if isinstance(value, str) and value.strip().lower().lstrip("+-.") in ("nan", "inf", "infinity"):
            raise InputError(f"{where}: {value} is not a finite number")
    if annotation is int and not isinstance(value, bool):
        found = number(value.strip()) if isinstance(value, str) else value
        if isinstance(found, float) and found.is_integer() and abs(found) < 2**53:
            return int(found)  # 1e3
        if isinstance(found, int):
            return found
    if annotation in (bool, str) and isinstance(value, annotation):
        return value
    if annotation is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a column or a revision that looks like a number
    raise InputError(f"{where}: {_shown(value)} is not {described(annotation)}")


def _finite(value: int | float, where: str) -> float:
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise InputError(f"{where}: {str(value)[:20]} is not a finite number")
    return found


def _shown(value: object) -> str:
    text = (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
    )
    return clip(text, 60)
