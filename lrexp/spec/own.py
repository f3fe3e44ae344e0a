"""Own choices: the folders of --config-dir, each with DIR/<group>/*.yaml in the grammar of lrexp's conf/.

`name:` in a file says what its section is:

    method/lora_r64.yaml    name: lora        a ready-made setting of lora; what it leaves out is as lora has it
    model/my_bert.yaml      name: my_bert     the file's own name: a new model (or data set)

Methods, optimizers and trackings are code, so only those that lrexp has can be named. Files of training and hardware
have no name and leave out what is as in the group's default. An experiment is one as in conf/experiment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrexp.spec import packages, shipped
from lrexp.spec.check_file import UNNAMED, check_text
from lrexp.spec.choice import Choice, Field, Text, read
from lrexp.spec.convert import convert, join, nearest, unknown
from lrexp.spec.errors import InputError
from lrexp.spec.plain import REFERENCE, is_map, plain, put

Choices = dict[str, dict[str, Choice]]  # by group and name


def find(folders: Iterable[Path]) -> Choices:
    """The choices in the folders. Raises InputError for whatever is wrong in one, and for a name that stands twice."""
    files: dict[str, dict[str, Path]] = {}
    for folder in dict.fromkeys(folder.expanduser().resolve() for folder in folders):
        for group, file in _files(folder):
            _refuse_twin(group, file, files.setdefault(group, {}))
            files[group][file.stem] = file
    return {group: _choices(group, list(found.values())) for group, found in files.items()}


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Group and path of each YAML file."""
    where = f"--config-dir {folder}"
    try:
        if not folder.is_dir():
            raise InputError(f"{where}: {'a file, not a folder' if folder.exists() else 'there is no such folder'}")
        inside = {place.name for place in folder.iterdir() if place.is_dir()}
        groups = [group for group in shipped.groups() if group in inside]
        if not groups:
            near = next((hint for name in sorted(inside) if (hint := nearest(name, shipped.groups()))), "")
            known = ", ".join(f"{group}/" for group in shipped.groups())
            raise InputError(f"{where}: none of the folders {known} is in it{', ' * bool(near)}{near}")
        found = [(group, file) for group in groups for file in sorted((folder / group).iterdir())]
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror or error})") from None
    for _, file in found:
        if file.suffix == ".yml":
            raise InputError(f"{file}: a choice's file ends in .yaml")
    return [(group, file) for group, file in found if file.suffix == ".yaml" and not file.name.startswith(".")]


def _refuse_twin(group: str, file: Path, others: dict[str, Path]) -> None:
    other: Path | None = others.get(file.stem)
    if file.stem in shipped.names(group):
        other = shipped.choice(group, file.stem).file
    elif group == "method" and file.stem in packages.methods():
        other = packages.methods()[file.stem].choice.file
    if other is not None:
        raise InputError(f"{group}={file.stem} is there twice: {file}\nand {other}. Rename one of them")


def _choices(group: str, files: list[Path]) -> dict[str, Choice]:
    texts = [read(file) for file in files]
    for text in texts:
        check_text(group, text)
    if group == "experiment":
        return {t.file.stem: _choice(group, t, t.fields(), t.file.stem, t.values) for t in texts}
    new = {t.file.stem: _new(group, t) for t in texts if group in shipped.OPEN and t.values["name"] == t.file.stem}
    known = {name: shipped.choice(group, name) for name in shipped.names(group)} | new
    if group == "method":
        known |= {name: declared.choice for name, declared in packages.methods().items()}
    return {t.file.stem: new.get(t.file.stem) or _setting(group, t, known) for t in texts}


def _new(group: str, text: Text) -> Choice:
    """A model or data set of its own: the keys that it writes, of the types that the group's keys have."""
    usual = {field.key: field for field in shipped.usual(group)}
    fields = tuple(_typed(field, usual.get(field.key), group, text.file) for field in text.fields(_maps(usual)))
    return _choice(group, text, fields, text.file.stem, _values(fields, text.file.stem), whole=False)


def _setting(group: str, text: Text, known: dict[str, Choice]) -> Choice:
    """A ready-made setting of a known choice, whole: with that one's keys where it has none."""
    name = str(shipped.defaults()[group]) if group in UNNAMED else text.values["name"]
    if name not in known:
        new = f" (name: {text.file.stem} makes it a new one)" if group in shipped.OPEN else ""
        raise InputError(f"{text.file}: " + unknown(f"name: {name}", name, sorted(known), group) + new)
    base = known[name].beside(shipped.usual(group) if not known[name].whole else ())
    fields = {field.key: field for field in base.fields}
    own = {}
    for field in text.fields(_maps(fields)):
        if field.key not in fields and base.whole:
            kind = "key" if group in UNNAMED else f"key of {group}={name}"
            raise InputError(f"{text.file}: " + unknown(join(group, field.key), field.key, fields, kind, "Keys"))
        own[field.key] = _typed(field, fields.get(field.key), group, text.file)
    found = tuple(({field.key: field for field in known[name].fields} | own).values())
    called = None if group in UNNAMED else name
    return _choice(group, text, found, called or text.file.stem, _values(found, called), base.whole)


def _choice(
    group: str, text: Text, fields: tuple[Field, ...], called: str, values: dict[str, Any], whole: bool = True
) -> Choice:
    return Choice(group, text.file.stem, text.header, fields, called, text.file, whole, values)


def _values(fields: tuple[Field, ...], name: str | None) -> dict[str, Any]:
    """The section that the fields make, with its name if it has one."""
    found: dict[str, Any] = {} if name is None else {"name": name}
    for field in fields:
        put(found, field.key, field.default)
    return found


def _typed(field: Field, like: Field | None, group: str, file: Path) -> Field:
    """The field with its group's type, and with its comment where the file has none."""
    if like is not None:
        paper, meaning = field.paper or like.paper, field.meaning or like.meaning
        annotation = field.annotation if like.annotation is Any else like.annotation
        field = replace(field, type=like.type or field.type, paper=paper, meaning=meaning, annotation=annotation)
    if isinstance(field.default, str) and REFERENCE.fullmatch(field.default):
        return field
    value = convert(field.default, field.annotation, f"{file}: {join(group, field.key)}")
    return replace(field, default=plain(value))


def _maps(fields: dict[str, Field]) -> set[str]:
    return {key for key, field in fields.items() if is_map(field.annotation)}
