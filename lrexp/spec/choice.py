"""One choice: a YAML file of a group, its values by the parser and its comments by the text. No Hydra, no torch.

A file begins with header comments (the first is its summary). Each key stands on its own line with a comment in three
parts,

    r: 8  # int >= 1 | 8 | rank of the update

the TYPE, what the PAPER has (`-` where it is silent) and the MEANING. A type is `int`, `float`, `bool`, `str`, `one of
a, b`, `list of X`, `map of str to X`, or several of them joined by `or`; a range (`>= 1`, `> 0`, `in [0, 1)`) and `or
null` may follow. `map of str to value` holds numbers, texts, truth values, nulls and lists, each with a type that
another library knows. A key without such a comment (experiments have none) takes any value.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Union

from lrexp.spec import yaml_text
from lrexp.spec.convert import Value, join
from lrexp.spec.errors import InputError

LINE = re.compile(r"( *)([A-Za-z_]\w*):(?: +(.*?))?(?: +# (.*))?")
RANGE = re.compile(r" (?:(?:[<>]=? \S+)(?: and [<>]=? \S+)?|in [\[(][^\])]*[\])])$")
SCALARS = {"int": int, "float": float, "bool": bool, "str": str, "value": Value}
NO_FIELDS = ("name", "defaults")  # keys that say which choices are meant


@dataclass(frozen=True)
class Field:
    """One key of a choice: dotted name, default, the three parts of its comment, and the type for `convert`."""

    key: str
    default: Any
    type: str
    paper: str
    meaning: str
    annotation: Any

    @property
    def range(self) -> str:
        """The range in the type, or ""."""
        found = RANGE.search(self.type.removesuffix(" or null"))
        return found[0].strip() if found else ""

    @property
    def kind(self) -> str:
        """The type without its range."""
        return self.type.replace(f" {self.range}", "") if self.range else self.type


@dataclass(frozen=True)
class Choice:
    """One YAML file of a group.

    `name` is what is typed, `section_name` what the section is called in a spec: another one for a ready-made setting
    (`method=lora_r64` is the method lora). Where `whole` is false, the floor that owns the section knows more keys.
    """

    group: str
    name: str
    header: tuple[str, ...]
    fields: tuple[Field, ...]
    section_name: str
    file: Path | None = None
    whole: bool = True
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)  # what the file, or the setting, says

    @property
    def summary(self) -> str:
        """The first line of the header."""
        return self.header[0] if self.header else ""

    def field(self, key: str) -> Field | None:
        """The field with this dotted key, if there is one."""
        return next((field for field in self.fields if field.key == key), None)

    def default(self, key: str) -> Any:
        """The default of a key that this choice has."""
        return next(field.default for field in self.fields if field.key == key)

    def beside(self, fields: tuple[Field, ...]) -> Choice:
        """The choice with those of `fields` that it lacks."""
        own = {field.key for field in self.fields}
        return replace(self, fields=(*self.fields, *(field for field in fields if field.key not in own)))


@dataclass(frozen=True)
class Text:
    """A file as it was read. `lines`: for each key in the text whether a value follows on its line, and its comment."""

    file: Path
    header: tuple[str, ...]
    package: str | None
    values: dict[str, Any]
    lines: dict[str, tuple[bool, str | None]]

    def fields(self, maps: Container[str] = ()) -> tuple[Field, ...]:
        """The fields in the order of the file; a key in `maps` takes a mapping as its value, however it is written."""
        return tuple(self._fields(self.values, "", maps))

    def _fields(self, values: Mapping[str, Any], prefix: str, maps: Container[str]) -> Iterator[Field]:
        for name, value in values.items():
            key = join(prefix, name)
            follows, comment = self.lines.get(key, (False, None))
            if isinstance(value, dict) and value and not follows and key not in maps:
                yield from self._fields(value, key, maps)
            elif key not in NO_FIELDS:
                yield _field(key, value, comment, str(self.file))


def read(file: Path) -> Text:
    """The file of a choice. Raises InputError if it is unreadable, damaged YAML, or no mapping of keys to values."""
    text = yaml_text.read_text(file)
    values = yaml_text.parse(text, str(file))
    if not isinstance(values, dict | None):
        raise InputError(f"{file}: holds no keys. A choice is a mapping of keys to values")
    header = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        header.append(line.lstrip("# ").rstrip())
    package = next((line.removeprefix("@package").strip() for line in header if line.startswith("@package")), None)
    header = tuple(line for line in header if line and not line.startswith("@package"))
    return Text(file, header, package, values or {}, _lines(text))


def annotation(type_text: str) -> Any:
    """The Python type that a TYPE comment spells. Raises ValueError if it is none."""
    text = type_text.strip()
    null = text.endswith(" or null")
    text = RANGE.sub("", text.removesuffix(" or null").rstrip())
    if text.startswith("one of "):
        found: Any = Literal[tuple(text.removeprefix("one of ").split(", "))]  # pyright: ignore
    else:
        found = Union[tuple(_one(part) for part in text.split(" or "))]  # noqa: UP007 # pyright: ignore
    return found | None if null else found


def _one(text: str) -> Any:
    if text in SCALARS:
        return SCALARS[text]
    if text.startswith("list of "):
        return tuple[_one(text.removeprefix("list of ")), ...]
    if text.startswith("map of str to "):
        return dict[str, _one(text.removeprefix("map of str to "))]
    raise ValueError(f"{text!r} is not a type of the comment grammar")


def _lines(text: str) -> dict[str, tuple[bool, str | None]]:
    found: dict[str, tuple[bool, str | None]] = {}
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = LINE.fullmatch(line.rstrip())
        if match is None:
            continue
        indent, key, value, comment = len(match[1]), match[2], match[3], match[4]
        while parents and parents[-1][0] >= indent:
            parents.pop()
        path = ".".join([*(name for _, name in parents), key])
        if value and value[0] in "\"'" and value.count(value[0]) % 2:
            comment = None  # the # is part of a quoted text
        found[path] = bool(value), comment
        if not value:
            parents.append((indent, key))
    return found


def _field(key: str, default: Any, comment: str | None, where: str) -> Field:
    if comment is None or " | " not in comment:
        return Field(key, default, "", "", comment or "", Any)
    parts = [part.strip() for part in comment.split(" | ", 2)]
    if len(parts) != 3:
        raise InputError(f"{where}: the comment of {key} is not TYPE | PAPER | MEANING")
    try:
        return Field(key, default, parts[0], parts[1], parts[2], annotation(parts[0]))
    except ValueError as error:
        raise InputError(f"{where}: {key}: {error}") from error
