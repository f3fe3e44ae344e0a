"""The words of a sweep as the words of its runs: comma lists, `choice()`, `range()` and `glob()` in Hydra's grammar.

A lone `+` begins a part. What stands before the first holds for all parts, and the sweep is the runs of all of them:
`seed=1,2 + method=lora,pissa + method=galore method.rank=64`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

from lrexp.spec import choices
from lrexp.spec.convert import clip
from lrexp.spec.errors import InputError
from lrexp.spec.override import Override, by_key, unpaired

MOST = 10_000  # runs of one sweep
PART = "+"  # the word that begins a part
COMMON = ("output_dir",)  # keys that parts cannot differ in


def expand(arguments: Iterable[str]) -> list[list[str]]:
    """The overrides of every run, part by part, the last key varying fastest.

    A value with a comma in it is written in quotes. Raises InputError for what is no override, an empty sweep, or more
    than 10,000 runs.
    """
    found = []
    count = 0
    for words in parts(arguments):
        values = [[f"{o.key}={text}" for text in _values(o)] for o in by_key(words).values()]
        count += math.prod(map(len, values))
        if count > MOST:
            raise InputError(f"a sweep of {count} runs: at most {MOST} are taken at once")
        found += [list(line) for line in itertools.product(*values)]
    return found


def parts(arguments: Iterable[str]) -> list[list[str]]:
    """The words of every part, the common ones first; all words, where there is one part only.

    Raises InputError for a part without words, and for a key in a part that holds for the whole sweep.
    """
    arguments = list(arguments)
    refuse_within(arguments, COMMON)
    common, *own = _split(arguments)
    if not all(own):
        raise InputError("train -m: a + begins a part of the sweep, and there is one without words after it")
    return [[*common, *words] for words in own] if own else [common]


def refuse_within(arguments: Iterable[str], keys: tuple[str, ...]) -> None:
    """Raises InputError where a part sets a key, or one below it, that holds for the whole sweep."""
    for word in itertools.chain(*_split(arguments)[1:]):
        key = word.partition("=")[0].strip()
        if key.partition(".")[0] in keys:
            raise InputError(f"{clip(word)}: {key} holds for the whole sweep; write it before the first +")


def _split(arguments: Iterable[str]) -> list[list[str]]:
    """What stands before the first +, then the words of each part."""
    found: list[list[str]] = [[]]
    for word in arguments:
        if word == PART:
            found.append([])
        else:
            found[-1].append(word)
    return found


def _values(o: Override) -> list[str]:
    """The texts of one key's values; one text where the key is not swept."""
    if not any(mark in o.text for mark in ",("):
        return [o.text]
    from hydra.core.override_parser.types import Glob

    parsed = _parsed(o)
    if not parsed.is_sweep_override():
        return [o.text]
    if o.key == "output_dir":
        raise InputError(f"{o}: a sweep has one output_dir; its runs lie in folders below it")
    if isinstance(parsed.value(), Glob):
        if o.key not in choices.groups():
            raise InputError(f"{o}: glob() chooses among the names of a group ({', '.join(choices.groups())})")
        found = parsed.value().filter(list(choices.names(o.key)))
    else:
        found = list(parsed.sweep_string_iterator())
    if not found:
        raise InputError(f"{o}: no value comes of it")
    return list(dict.fromkeys(str(text) for text in found))


def _parsed(o: Override) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"{o.key.split('.')[-1]}={o.text}")
    except (HydraException, ValueError, RecursionError):
        raise InputError(f"{o}: {unpaired(o.text) or 'the value is not understood; put text in quotes'}") from None
