"""The words of a budget, `budget.trainable_parameters=N` and `budget.memory=SIZE`, apart from those of the run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lrexp.spec.convert import number, unknown
from lrexp.spec.errors import InputError
from lrexp.spec.override import Override, by_key

UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Budget:
    """What a run may take: parameters that are trained, bytes of the planned peak. None: no bound."""

    trainable_parameters: int | None = None
    memory: int | None = None


def split(words: Iterable[str]) -> tuple[Budget | None, list[str]]:
    """The budget that the words set, None if they set none, and the other words. Raises InputError."""
    words = list(words)
    mine = [word for word in words if is_budget(word)]
    if not mine:
        return None, words
    found = {}
    for o in by_key(mine).values():
        name = o.key.partition(".")[2]
        if name not in READERS:
            raise InputError(unknown(o.key, name, READERS, "key", "A budget has"))
        found[name] = READERS[name](o)
    return Budget(**found), [word for word in words if word not in mine]


def is_budget(word: str) -> bool:
    """Whether a word is about the budget."""
    return word.partition("=")[0].strip().partition(".")[0] == "budget"


def read_bytes(text: str, where: str) -> int:
    """The bytes of "24GB", "80 GiB" or a plain number; GB are powers of 1000. Raises InputError, with `where` first."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)", text.strip())
    unit = next((unit for unit in UNITS if found and unit.lower() == found[2].lower()), None)
    if found is None or unit is None or float(found[1]) == 0:
        raise InputError(f"{where}: a size is needed, such as 24GB; units are {', '.join(filter(None, UNITS))}")
    return int(float(found[1]) * UNITS[unit])


def _count(o: Override) -> int:
    value = number(o.text)
    if value is None or not 1 <= value < 1e15:
        raise InputError(f"{o}: a number of parameters is needed, such as 9e6")
    return int(value)


def _bytes(o: Override) -> int:
    return read_bytes(o.text, str(o))


READERS = {"trainable_parameters": _count, "memory": _bytes}
