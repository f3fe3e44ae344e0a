"""Names and types of a composed mapping against the choices' own YAML: under a second, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrexp.spec import choices, shipped
from lrexp.spec.check_file import NAME
from lrexp.spec.convert import clip, convert, join, unknown
from lrexp.spec.errors import InputError
from lrexp.spec.plain import plain, put, refuse_code

PLAIN_SECTIONS = ("model", "dataset", "method", "optimizer")  # mappings that another floor makes a dataclass of


def sections(mapping: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The mapping with references filled in and every value of the plain sections in its own type.

    Raises InputError for an unknown choice or key (with the nearest name), a wrong type, a `_target_`, a resolver, NaN.
    Only the floors that own them know whether a model or data set that is no choice here has all its keys.
    """
    refuse_code(mapping, where)
    found = dict(resolved(mapping, where))
    if "output_dir" in found:
        raise InputError(f"{where}output_dir is given on the command line only, never by a file")
    label = found.get("experiment")
    if isinstance(label, str) and not NAME.fullmatch(label):
        raise InputError(f"{where}experiment: {clip(label)!r} cannot be a run's name: letters, digits, _, - and .")
    for group in PLAIN_SECTIONS:
        if group in found:
            found[group] = _section(group, found[group], where)
    return found


def resolved(mapping: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The mapping with each value ${section.key} replaced by the number or text that stands there.

    A reference is a whole value and its aim is no reference and no list, so that nothing unfolds.
    """

    def look_up(reference: str) -> Any:
        value: Any = mapping
        for part in reference[2:-1].split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise InputError(f"{where}{reference} refers to a key that is not there")
            value = value[part]
        if isinstance(value, Mapping | list) or (isinstance(value, str) and "${" in value):
            raise InputError(f"{where}{reference} refers to something else than one value")
        return value

    def fill(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [fill(item) for item in value]
        return look_up(value) if isinstance(value, str) and "${" in value else value

    return fill(mapping)


def _section(group: str, section: object, where: str) -> dict[str, Any]:
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise InputError(
            f"{where}{group}: holds no name of a {group}; known are {', '.join(choices.section_names(group))}"
        )
    chosen = choices.section(group, section["name"])
    if chosen is None:
        raise InputError(_no_choice(group, section["name"], where))
    found: dict[str, Any] = {"name": chosen.name}
    for key, value in _leaves(section, chosen):
        field = chosen.field(key)
        if field is None and chosen.whole:
            keys = [field.key for field in chosen.fields]
            raise InputError(where + unknown(f"{group}.{key}", key, keys, f"key of {group}={chosen.name}", "Keys"))
        put(found, key, plain(convert(value, field.annotation if field else Any, f"{where}{group}.{key}")))
    return found


def _no_choice(group: str, name: str, where: str) -> str:
    if group in shipped.OPEN:
        return f"{where}{group}: {clip(name)!r} cannot be a name: letters, digits, _, - and ."
    message = where + unknown(f"{group}={name}", name, choices.section_names(group), group)
    return f"{message}. A package that declares it may be missing here" if group == "method" else message


def _leaves(section: Mapping[str, Any], chosen: choices.Choice) -> list[tuple[str, Any]]:
    """Dotted keys and values; a mapping is a value where the choice has a key of that name, else a nest of keys."""
    found = []

    def walk(mapping: Mapping[str, Any], prefix: str) -> None:
        for name, value in mapping.items():
            key = join(prefix, name)
            if isinstance(value, Mapping) and any(field.key.startswith(f"{key}.") for field in chosen.fields):
                walk(value, key)
            elif key != "name":
                found.append((key, value))

    walk(section, "")
    return found
