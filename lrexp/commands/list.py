"""Shows what can be chosen.

    lrexp list                        the groups and the names in each
    lrexp list methods                what method= accepts: family, paper, one line each; in json and csv
                                      also what it goes together with (accumulation, bf16, per-layer updates, ...)
    lrexp list models                 likewise datasets, experiments, optimizers, training, hardware, tracking

Options:
    --format rich|md|csv|json         how the table is printed (default rich)
    --config-dir DIR                  own choices beside lrexp's (docs/configs.md); as often as needed
    --help                            this text

What one choice holds: lrexp show method=lora.
"""

from __future__ import annotations

from lrexp.commands.options import Parser
from lrexp.methods.catalog import Entry, entries
from lrexp.report.render import render
from lrexp.spec import choices
from lrexp.spec.convert import clip, unknown
from lrexp.spec.errors import InputError

SUPPORTED = ("accumulation", "bf16", "per_layer", "quantised_base")  # what a method can be combined with
UNCOUNTED = ("training", "hardware", "tracking")
Row = dict[str, object]


def main(arguments: list[str]) -> int:
    """Prints the overview, or one group's choices. Raises InputError for an unknown group."""
    parser = Parser("list")
    parser.add_argument("what", nargs="?")
    options = parser.parse_args(arguments)
    if options.what is None:
        render(["list", "set by", "names"], _overview(), options.format)
        return 0
    group = _group(options.what)
    if group == "method":
        supported = list(SUPPORTED) if options.format in ("json", "csv") else []
        render(["name", "family", "paper", *supported, "line"], _methods(), options.format)
    else:
        partner = {"model": "dataset", "dataset": "model"}.get(group)
        columns = ["name", *([f"default {partner}"] if partner else []), "line"]
        render(columns, [_row(choice, partner) for choice in choices.choices(group)], options.format)
    return 0


def plural(group: str) -> str:
    """What `lrexp list` calls a group."""
    return group if group in UNCOUNTED else f"{group}s"


def _group(word: str) -> str:
    words = {plural(group): group for group in choices.groups()}
    if word in words or word in words.values():
        return words.get(word, word)
    raise InputError(unknown(f"list {clip(word)}", word, words, "group", "Groups"))


def _overview() -> list[Row]:
    return [
        {"list": plural(group), "set by": f"{group}=", "names": ", ".join(choices.names(group))}
        for group in choices.groups()
    ]


def _methods() -> list[Row]:
    """The catalogue, then ready-made settings of its methods."""
    found = entries()
    rows: list[Row] = [
        {"name": e.name, "family": e.family, "paper": e.paper, "line": e.line} | _supported(e)
        for e in found.values()
        if e.name in choices.names("method")
    ]
    for choice in choices.choices("method"):
        if choice.name not in found:
            of = found[choice.section_name]
            line = choice.summary or f"a setting of {of.name}"
            row: Row = {"name": choice.name, "family": of.family, "paper": of.paper, "line": line}
            rows.append(row | _supported(of))
    return rows


def _supported(entry: Entry) -> Row:
    return {name: getattr(entry.supports, name) for name in SUPPORTED}


def _row(choice: choices.Choice, partner: str | None) -> Row:
    row: Row = {"name": choice.name, "line": choice.summary}
    if partner:
        row[f"default {partner}"] = choice.default(partner) if choice.field(partner) else None
    return row
