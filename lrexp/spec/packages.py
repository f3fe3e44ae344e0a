"""Methods of other packages: what they declare by the entry point group `lrexp.methods`. Imports no torch.

The package says in its pyproject.toml

    [project.entry-points."lrexp.methods"]
    mymethod = "mypackage.catalog:ENTRY"

where ENTRY is an `Entry` of the same name, whose `conf` names the package that holds method/mymethod.yaml. A YAML file
can only name a method: what is imported is what the person has installed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING

from lrexp.spec import shipped
from lrexp.spec.check_file import NAME, check_text
from lrexp.spec.choice import Choice, read
from lrexp.spec.convert import clip
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "lrexp.methods"


@dataclass(frozen=True)
class Supports:
    """What holds for a method and what it can be combined with; the rest is refused when a spec is checked."""

    accumulation: bool = True  # gradient_accumulation_steps above 1
    bf16: bool = True  # weights and optimizer states in bf16
    per_layer: bool = True  # per_layer_updates: needs no hook between the backward pass and the optimizer
    quantised_base: bool = False  # a base whose frozen weights are stored in fewer bits (model.quantization)
    merge: bool = True  # ends as a plain model with the same outputs
    starts_at_base: bool = True  # before the first step the outputs are those of the base model


@dataclass(frozen=True)
class Entry:
    """One method of the catalogue: the module and class that train, and `conf`, the package with its YAML file.

    `needs` is the optional package that a method stands on, whose version decides numbers too; "": none.
    """

    name: str
    module: str
    cls: str
    family: str
    paper: str
    line: str
    conf: str = "lrexp.conf"
    needs: str = ""
    supports: Supports = Supports()


@dataclass(frozen=True)
class Declared:
    """A method of another package."""

    entry: Entry
    choice: Choice
    package: str
    version: str


@cache
def methods() -> dict[str, Declared]:
    """The methods that installed packages declare, by name.

    What is wrong with one is said once, in a line on the error stream, and the method left out: the others go on.
    """
    from importlib.metadata import entry_points  # only where methods are asked for

    points: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        points[point.name].append(point)
    found = {}
    for name in sorted(points):
        try:
            found[name] = _declared(points[name])
        except InputError as error:
            packages = " and ".join(sorted(_package(point) for point in points[name]))
            print(f"lrexp: method {name} of {packages} is left out: {clip(str(error), 300)}", file=sys.stderr)
    return found


def _declared(points: list[EntryPoint]) -> Declared:
    point = points[0]
    if point.name in shipped.names("method"):
        raise InputError("lrexp has a method of this name")
    if len(points) > 1:
        raise InputError("more than one package declares this name")
    entry = _entry(point)
    return Declared(entry, _choice(entry), _package(point), _version(point))


def _entry(point: EntryPoint) -> Entry:
    try:
        entry = point.load()
    except (Exception, SystemExit) as error:
        raise InputError(f"{point.value} cannot be imported ({type(error).__name__}: {error})") from error
    if not isinstance(entry, Entry) or not all(
        isinstance(getattr(entry, field.name), Supports if field.name == "supports" else str) for field in fields(Entry)
    ):
        raise InputError(f"{point.value} is no lrexp.methods.catalog.Entry of texts and Supports")
    if entry.name != point.name:
        raise InputError(f"{point.value} is named {entry.name}: the entry point and its Entry have one name")
    if not NAME.fullmatch(entry.name):
        raise InputError("a name has letters, digits, _, - and . only")
    return entry


def _choice(entry: Entry) -> Choice:
    try:
        folder = shipped.package_folder(entry.conf)
    except (Exception, SystemExit) as error:
        raise InputError(f"{entry.conf} cannot be imported ({type(error).__name__}: {error})") from error
    if folder is None:
        raise InputError(f"there is no package {entry.conf} with its YAML file")
    text = read(folder / "method" / f"{entry.name}.yaml")
    check_text("method", text)
    if text.values.get("name") != entry.name:
        raise InputError(f"{text.file}: has no line `name: {entry.name}`")
    return Choice("method", entry.name, text.header, text.fields(), entry.name, text.file, values=text.values)


def _package(point: EntryPoint) -> str:
    try:
        name = point.dist.name if point.dist else None
    except (KeyError, TypeError):  # an installation without metadata
        name = None
    return name or point.value.partition(":")[0].partition(".")[0]


def _version(point: EntryPoint) -> str:
    try:
        version = point.dist.version if point.dist else None
    except (KeyError, TypeError):
        version = None
    return version or "unknown"
