"""From words on a command line to one resolved RunSpec. The only file that knows Hydra and OmegaConf.

Hydra composes the chosen YAML files and its grammar reads the values; the values are put in place, checked and typed by
us, so that an error names the nearest key and Python's own types come out. What is not chosen fills itself: see
`_choose`. Names and types are checked first, and Hydra is imported only after that, so that a slip is answered at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, get_args

from lrexp.spec import choices, shipped, yaml_text
from lrexp.spec.check import PLAIN_SECTIONS
from lrexp.spec.check_file import default_group
from lrexp.spec.convert import closest, convert, unknown
from lrexp.spec.errors import InputError
from lrexp.spec.override import Override, by_key, unpaired
from lrexp.spec.plain import REFERENCE, is_map, refuse_code, takes_text_only
from lrexp.spec.run_spec import RunSpec

SECTIONS = (*PLAIN_SECTIONS, "training", "hardware", "tracking")
Setting = tuple[tuple[str, ...], Any]  # where a value goes, and the value
WORD = re.compile(r"[A-Za-z_][\w./-]*|0|-?[1-9]\d{0,17}")  # needs no parser, unless it is one of CONSTANTS
CONSTANTS = ("null", "true", "false", "nan", "inf")
FILLERS = {  # keys that only fill what is not set, and what to set instead
    "method.tuning": "training.learning_rate",
    "model.learning_rate_factor": "training.learning_rate",
}


def compose(arguments: Iterable[str], families: Mapping[str, str]) -> tuple[RunSpec, str | None]:
    """The run that `key=value` arguments ask for, and the output folder among them if there is one.

    `families` maps each method to its family, which decides what an unchosen model and data set are. Raises InputError.
    """
    overrides, output_dir = _split(arguments)
    groups = {o.key: _choice_name(o) for o in overrides if o.key in choices.groups()}
    chosen = _choose(groups, families)
    found = {group: choices.choice(group, name) for group, name in chosen.items()}
    settings = [_setting(o, found) for o in overrides if o.key not in groups]
    added = tuple(_added(choice) for choice in found.values() if not choices.is_shipped(choice.group, choice.name))
    composed = {**deepcopy(_composed(tuple(chosen.items()), added)), "experiment": chosen.get("experiment")}
    return _finished(composed, settings), output_dir


def override(spec: RunSpec, arguments: Iterable[str]) -> tuple[RunSpec, str | None]:
    """The spec with other values, and the output folder among them. Raises InputError, for choices of groups too."""
    overrides, output_dir = _split(arguments)
    for o in overrides:
        if o.key in choices.groups():
            raise InputError(
                f"{o}: on top of a frozen spec values may change, not choices of groups; compose a new run for that"
            )
        for filler, instead in FILLERS.items():
            if f"{o.key}.".startswith(f"{filler}."):
                raise InputError(f"{o}: {filler} has done its work in a frozen spec; set {instead}")
    frozen = spec.to_dict()
    chosen = {group: choices.section(group, frozen[group].get("name", shipped.defaults()[group])) for group in SECTIONS}
    return _finished(frozen, [_setting(o, chosen) for o in overrides]), output_dir


def _split(arguments: Iterable[str]) -> tuple[list[Override], str | None]:
    """The overrides among the arguments, and apart from them the output folder."""
    found = by_key(arguments)
    output = found.pop("output_dir", None)
    return list(found.values()), None if output is None else _text(output)


def _value(o: Override) -> Any:
    """The value in Hydra's grammar. Raises InputError for what does not parse, and for a sweep."""
    if WORD.fullmatch(o.text) and o.text.lower() not in CONSTANTS:
        return int(o.text) if o.text.lstrip("-").isdigit() else o.text
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"key={o.text}")
        value = None if parsed.is_sweep_override() else parsed.value()
    except (HydraException, ValueError, RecursionError):
        raise InputError(f"{o}: {unpaired(o.text) or 'the value is not understood; put text in quotes'}") from None
    if parsed.is_sweep_override():
        raise InputError(
            f"{o}: one run takes one value for {o.key}; -m makes a sweep of several (a list is written [a,b])"
        )
    if value == "":
        raise InputError(f"{o}: the value is empty. Write {o.key}=null for none")
    return value


def _text(o: Override) -> str | None:
    """The value as it was typed, unless it is quoted: a path may hold commas, blanks and brackets."""
    if o.text[0] in "\"'":
        value = _value(o)
        return None if value is None else str(value)
    return None if o.text == "null" else o.text


def _choice_name(o: Override) -> str | None:
    value = _value(o)
    if isinstance(value, dict | list):
        raise InputError(f"{o}: takes one name. For its keys write {o.key}.KEY=VALUE")
    if value is None and o.key not in ("model", "dataset", "experiment"):
        raise InputError(f"{o}: one must be chosen. Known: {', '.join(choices.names(o.key))}")
    return None if value is None else choices.choice(o.key, str(value)).name


def _choose(groups: Mapping[str, str | None], families: Mapping[str, str]) -> dict[str, str]:
    """The choice of each group: the command line's, else the experiment's, else the partner's, else config.yaml's."""
    base = yaml_text.read_file(choices.folder() / "config.yaml")
    defaults = {key: name for key, name in _defaults(base).items() if name is not None}
    chosen = {**defaults, **{key: name for key, name in groups.items() if name is not None}}
    if "experiment" in chosen:
        inside = _defaults(choices.choice("experiment", chosen["experiment"]).values)
        chosen = {**defaults, **inside, **chosen} | {
            key: name for key, name in inside.items() if groups.get(key) is None
        }
    if "model" not in chosen and "dataset" not in chosen:
        family = families.get(choices.choice("method", chosen["method"]).section_name)
        if family not in base["partners"]:
            raise InputError(f"method={chosen['method']}: no default model and data set; choose model= and dataset=")
        chosen |= base["partners"][family]
    elif "model" not in chosen:
        chosen["model"] = _partner("dataset", chosen["dataset"], "model")
    elif "dataset" not in chosen:
        chosen["dataset"] = _partner("model", chosen["model"], "dataset")
    for group, name in chosen.items():
        choices.choice(group, name)
    return chosen


def _partner(group: str, name: str, of: str) -> str:
    """The model that goes with a data set, or the other way round, where none is chosen."""
    field = choices.choice(group, name).field(of)
    if field is None or not isinstance(field.default, str):
        raise InputError(f"{group}={name}: names no {of} that goes with it; choose {of}=")
    return field.default


def _defaults(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Group and choice of each entry of a defaults list."""
    entries = [entry for entry in mapping.get("defaults", []) if isinstance(entry, dict)]
    return {default_group(key): name for entry in entries for key, name in entry.items()}


def _added(chosen: choices.Choice) -> tuple[str, str, str]:
    """A choice that is not shipped as group, name and JSON of its keys: as our own reader took and checked them."""
    values = {key: value for key, value in chosen.values.items() if key != "defaults"}
    return chosen.group, chosen.name, json.dumps(values)


@cache
def _composed(chosen: tuple[tuple[str, str], ...], added: tuple[tuple[str, str, str], ...]) -> dict[str, Any]:
    """What Hydra makes of the choices.

    `added` are those that Hydra cannot find. It gets their values, never their folders: in a folder of a stranger's it
    would also read its own groups, callbacks that run code among them.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    words = [f"{group}={name}" for group, name in chosen]
    try:
        for group, name, values in added:
            package = "_global_" if group == "experiment" else None
            ConfigStore.instance().store(name, json.loads(values), group, package, "lrexp")
        with initialize_config_module("lrexp.conf", version_base="1.3"):
            found = OmegaConf.to_container(hydra_compose("config", overrides=words), resolve=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{', '.join(words)}: do not compose ({str(error).splitlines()[0]})") from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if key != "partners"}


def _finished(composed: dict[str, Any], settings: Iterable[Setting]) -> RunSpec:
    """The checked spec with the settings in their places."""
    for path, value in settings:
        *parents, last = path
        target = composed
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return RunSpec.from_dict(composed)


def _setting(o: Override, chosen: Mapping[str, choices.Choice | None]) -> Setting:
    """Where an override's value goes and what it is, name and type checked against the choice it belongs to."""
    section, _, key = o.key.partition(".")
    if o.key == "seed":
        return ("seed",), _value(o)
    if o.key == "init_from":
        return ("init_from",), _text(o)
    choice = chosen.get(section) if section in SECTIONS else None
    if not key or choice is None:
        raise InputError(_unknown_section(o))
    field, inside = _field(o, choices.typed(choice), key)
    verbatim = takes_text_only(field.annotation) and (key.endswith("path") or "," not in o.text)
    value = _text(o) if verbatim else _value(o)
    refuse_code(value, "", o.key)
    if not (isinstance(value, str) and REFERENCE.fullmatch(value)):
        convert(value, get_args(field.annotation)[1] if inside else field.annotation, o.key)
    return (section, *field.key.split("."), *([inside] if inside else [])), value


def _field(o: Override, chosen: choices.Choice, key: str) -> tuple[choices.Field, str]:
    """The field that a dotted key names, and, where the field is a map, the name inside it."""
    section, name = chosen.group, chosen.name
    if key == "name":
        raise InputError(f"{o}: the name is the choice; write {section}={o.text}")
    if (section, key) in (("model", "dataset"), ("dataset", "model")):
        raise InputError(f"{o}: only says what goes with {section}={name}; write {key}={o.text}")
    for field in chosen.fields:
        if field.key == key or (is_map(field.annotation) and key.startswith(f"{field.key}.")):
            return field, key[len(field.key) + 1 :]
    kind = f"key of {section}={name}" if section in PLAIN_SECTIONS else "key"
    raise InputError(unknown(o.key, key, [field.key for field in chosen.fields], kind, "Keys"))


def _unknown_section(o: Override) -> str:
    section, _, key = o.key.partition(".")
    if section in choices.groups():
        return f"{o}: {section} is a group of settings; write {section}.KEY=VALUE"
    known = [*choices.groups(), "seed", "init_from", "output_dir"]
    if key:
        return unknown(o.key, section, known, "group", "Groups")
    every = [(group, field.key) for group in ("method", "hardware", "training") for field in _all_fields(group)]
    owners = {key: group for group, key in every if "." not in key}
    meant = None if closest(o.key, known) else closest(o.key, owners)
    if meant:
        return f"{o.key}: unknown key. Did you mean '{owners[meant]}.{meant}'?"
    return unknown(o.key, section, known, "key", "Known")


def _all_fields(group: str) -> list[choices.Field]:
    return [field for choice in choices.choices(group) for field in choice.fields]
