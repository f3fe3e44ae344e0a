"""Shows one choice: every key with its type, range, default, the paper's value and what it means.

    lrexp show method=pissa
    lrexp show training               a group with one choice
    lrexp show lora                   a name that only one group has

Options:
    --format rich|md|csv|json         how the table is printed (default rich)
    --config-dir DIR                  own choices beside lrexp's (docs/configs.md); as often as needed
    --help                            this text

A key is set on the command line of a run: lrexp train method=pissa method.r=4.
"""

from __future__ import annotations

from lrexp.commands.options import Parser
from lrexp.report.render import plain, render
from lrexp.spec import choices
from lrexp.spec.convert import clip, closest
from lrexp.spec.errors import InputError

COLUMNS = ["key", "default", "type", "range", "paper", "meaning"]


def main(arguments: list[str]) -> int:
    """Prints one choice. Raises InputError if the words name none."""
    parser = Parser("show")
    parser.add_argument("choice", metavar="GROUP=NAME")
    options = parser.parse_args(arguments)
    choice = find(options.choice)
    rows = [_row(field, options.format) for field in choice.fields]
    title = "\n".join([_title(choice), *choice.header])
    columns = [c for c in COLUMNS if c != "range" or options.format != "rich"]  # a terminal is narrow
    render(columns, rows, options.format, title)
    return 0


def find(word: str) -> choices.Choice:
    """The choice that `group=name`, a group with one choice, or a name alone stands for. Raises InputError."""
    group, equals, name = word.partition("=")
    if equals:
        if not name:
            raise InputError(f"{clip(word)}: the name is missing. Known: {', '.join(choices.names(group))}")
        return choices.choice(group, name)
    if word in choices.groups():
        names = choices.names(word)
        if len(names) == 1:
            return choices.choice(word, names[0])
        raise InputError(f"{word}: a group of {len(names)}; write {word}=NAME with one of {', '.join(names)}")
    found = [group for group in choices.groups() if word in choices.names(group)]
    if len(found) == 1:
        return choices.choice(found[0], word)
    if found:
        raise InputError(f"{word}: in more than one group; write {' or '.join(f'{group}={word}' for group in found)}")
    every = [f"{group}={name}" for group in choices.groups() for name in choices.names(group)]
    by_name = {entry.split("=")[1]: entry for entry in every}
    meant = closest(word, by_name)
    hint = f"did you mean {by_name[meant]}?" if meant else "see lrexp list"
    raise InputError(f"{clip(word)}: no choice of that name, {hint}")


def _title(choice: choices.Choice) -> str:
    setting = choice.section_name != choice.name
    return f"{choice.group}={choice.name}" + f", a setting of {choice.group}={choice.section_name}" * setting


def _row(field: choices.Field, format: str) -> dict[str, object]:
    default = "null" if field.default is None else plain(field.default)
    return {
        "key": field.key,
        "type": field.type if format == "rich" else field.kind,
        "range": field.range,
        "default": field.default if format == "json" else default,
        "paper": field.paper,
        "meaning": field.meaning,
    }
