"""The answer in a text: found by a regular expression, compared as a number or as words. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as opcodes  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser as parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

_LONGEST = 200  # characters of a pattern
_OPTIONS, _LOOPS = 10, 4  # parts of a pattern that may be left out, and that may be repeated: they multiply
_REPEATS = (opcodes.MAX_REPEAT, opcodes.MIN_REPEAT)


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern of an answer: its one group, or all that it matches.

    Raises:
        ValueError: not a regular expression, more than one group, one that matches the empty text; or one that may
            take exponential time: a repeat in a repeat, alternatives in a repeat, a reference to a group, more than ten
            optional or four repeated parts.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"has {len(pattern)} characters: it is at most {_LONGEST} long")
    try:
        found = re.compile(pattern)
        tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if found.groups > 1:
        raise ValueError(f"has {found.groups} groups: the answer is one group, (?:...) only groups")
    if found.search(""):
        raise ValueError("matches the empty text, where no answer is")
    slow = _slow(tree, False) or _many(tree)
    if slow:
        raise ValueError(f"has {slow}, which can take forever on some texts")
    return found


def extract(pattern: re.Pattern[str], text: str, which: str) -> str | None:
    """The "first" or "last" answer in the text, None where there is none."""
    found = [match[pattern.groups] for match in pattern.finditer(text)]
    found = [answer.strip() for answer in found if answer and answer.strip()]
    return (found[0] if which == "first" else found[-1]) if found else None


def as_number(answer: str) -> float | None:
    """The number that an answer spells, thousands set off by commas and a full stop at its end allowed."""
    try:
        return float(answer.replace(",", "").rstrip("."))
    except ValueError:
        return None


def same(one: str, other: str, tolerance: float | None) -> bool:
    """Whether two answers agree: as numbers that differ by `tolerance` at most, or, for None, letter by letter."""
    if tolerance is None:
        return one == other
    first, second = as_number(one), as_number(other)
    return first is not None and second is not None and abs(first - second) <= tolerance


def _slow(tree: Iterable[Any], repeated: bool) -> str | None:
    """What in a parsed pattern makes the number of ways to match grow exponentially."""
    for opcode, argument in tree:
        if opcode in (opcodes.GROUPREF, opcodes.GROUPREF_EXISTS):
            return "a reference to a group"
        repeats = opcode in _REPEATS and argument[1] > 1
        if repeated and opcode in _REPEATS and argument[0] != argument[1]:
            return "a repeat within a repeat"
        if repeated and opcode is opcodes.BRANCH:
            return "alternatives within a repeat"
        found = next((slow for part in _parts(argument) if (slow := _slow(part, repeated or repeats))), None)
        if found:
            return found
    return None


def _many(tree: Iterable[Any]) -> str | None:
    """Whether more parts may match in several ways than can be tried: each multiplies the ways of the others."""
    varying = [argument for opcode, argument in _all(tree) if opcode in _REPEATS and argument[0] != argument[1]]
    loops = sum(argument[1] > 1 for argument in varying)
    if loops > _LOOPS:
        return f"{loops} repeated parts, more than {_LOOPS}"
    if len(varying) > _OPTIONS:
        return f"{len(varying)} parts that may be left out or repeated, more than {_OPTIONS}"
    return None


def _all(tree: Iterable[Any]) -> Iterable[Any]:
    """Every operation of a parsed pattern, at any depth."""
    for opcode, argument in tree:
        yield opcode, argument
        for part in _parts(argument):
            yield from _all(part)


def _parts(argument: Any) -> Iterable[Any]:
    """The patterns inside an operation's argument."""
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, tuple | list):
        for part in argument:
            yield from _parts(part)
