"""Reads YAML that a stranger may have written, and writes YAML that every reader takes the same way.

Reading knows plain values only: no tags, no aliases, no merges, no key twice. `1e-3` is a number, `yes` is text.
Writing puts one key on a line, so that read and written again the bytes are the same.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lrexp.spec.convert import number
from lrexp.spec.errors import InputError

LARGEST = 1 << 20  # bytes: a spec has some 4 KiB
DEEPEST = 20
END = "\n...\n"  # YAML's own mark, where a text is sent: it is whole
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+()-]*")
RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path) -> str:
    """The text of a YAML file. Raises InputError if it is no regular file, too large, unreadable or not UTF-8."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is a {'folder' if path.is_dir() else 'device'}, not a YAML file")
        if status.st_size > LARGEST:
            raise InputError(f"{path}: larger than {LARGEST >> 20} MiB, so it is not a config")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror or error})") from None


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError if it is unreadable, damaged, empty or no mapping."""
    found = parse(read_text(path), str(path))
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: {'empty' if found is None else 'holds no keys'}. A spec is a mapping of keys to values"
        )
    return found


def parse(text: str, where: str) -> Any:
    """Plain values from YAML text. Raises InputError, one line that begins with `where`."""
    try:
        _refuse_tricks(text, where)
        node = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{where}: damaged YAML{line} ({problem})") from None
    return None if node is None else _value(node, where)


def dump(mapping: Mapping[str, Any], indent: int = 0) -> str:
    """Block YAML of nested mappings; lists and empty mappings on one line. Keys keep their order."""
    lines = []
    for key, value in mapping.items():
        name = f"{' ' * indent}{written(str(key))}:"
        if isinstance(value, Mapping) and value:
            lines.append(f"{name}\n{dump(value, indent + 2)}")
        else:
            lines.append(f"{name} {written(value)}\n")
    return "".join(lines)


def written(value: Any) -> str:
    """A value as YAML on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        assert math.isfinite(value)
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text  # YAML 1.1 takes 1e-05 for text
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(written(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{written(str(key))}: {written(item)}' for key, item in value.items())}}}"
    text = str(value)
    return text if PLAIN.fullmatch(text) and text.lower() not in RESERVED else _quoted(text)


def _refuse_tricks(text: str, where: str) -> None:
    """Aliases (which can unfold to any size), tags, several documents and absurd nesting."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=Loader):
        line = event.start_mark.line + 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{where}: line {line} has an anchor or an alias (& or *): write the value out")
        if getattr(event, "tag", None):
            raise InputError(f"{where}: line {line} has the tag {str(event.tag)[:60]}: only plain values are read")
        if depth > DEEPEST or documents > 1:
            raise InputError(
                f"{where}: line {line} {'is nested too deep' if depth > DEEPEST else 'begins a second document'}"
            )


def _value(node: Any, where: str) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, where) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise InputError(f"{where}: line {line} has a key that is not a name")
        if key_node.value in found:
            raise InputError(f"{where}: line {line} has the key '{key_node.value[:60]}' a second time")
        found[key_node.value] = _value(value_node, where)
    return found


def _scalar(node: Any) -> Any:
    text = node.value
    if node.style:  # quoted
        return text
    if text.lower() in ("", "~", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower().lstrip("+-") in (".nan", ".inf"):
        return float(text.replace(".", ""))
    found = number(text)
    return text if found is None else found


def _quoted(text: str) -> str:
    return "".join(c if c.isprintable() else _escaped(c) for c in json.dumps(text, ensure_ascii=False))


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
