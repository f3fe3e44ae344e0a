"""Texts made from the columns of a row, as in `Question: {question}`. A template runs no code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


@dataclass(frozen=True)
class Template:
    r"""`{column}` stands for the row's text in that column, `{{` and `}}` for braces, `\n` for a line break.

    Raises:
        ValueError: a brace that stands alone.
    """

    text: str

    def __post_init__(self) -> None:
        for match in _PART.finditer(self.text):
            if match[0] in "{}":
                raise ValueError(f"has a single {match[0]}: {{column}} names a column, {{{{ and }}}} are braces")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names, each once."""
        return tuple(dict.fromkeys(match[1] for match in _PART.finditer(self.text) if match[1]))

    def fill(self, row: Mapping[str, str]) -> str:
        """The text of a row. What stands in the row is never looked at for columns."""
        return _PART.sub(lambda match: row[match[1]] if match[1] else match[0][0], unescaped(self.text))


def unescaped(text: str) -> str:
    r"""The text with line breaks for `\n`, which is how a value on one line spells them."""
    return text.replace("\\n", "\n")
