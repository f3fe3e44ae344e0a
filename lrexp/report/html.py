"""A table as a fragment of HTML, to be put into a page: no styles and no scripts, all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lrexp.report.render import Strong, shown


def fragment(
    columns: Sequence[str], rows: Iterable[Mapping[str, object]], caption: Sequence[str], notes: Sequence[str] = ()
) -> str:
    """A table of `rows` under `columns` with `caption` above it; `notes`, if there are any, make a list after it."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(_cell(row.get(column)) for column in columns)}</tr>\n" for row in rows)
    heading = f"<caption>{'<br>'.join(map(escape, caption))}</caption>\n" if caption else ""
    table = f"<table>\n{heading}<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{body}</tbody>\n</table>\n"
    below = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
    return f"{table}<ul>\n{below}</ul>\n" if below else table


def _cell(value: object) -> str:
    text = escape(shown(value))
    return f"<td><strong>{text}</strong></td>" if isinstance(value, Strong) else f"<td>{text}</td>"
