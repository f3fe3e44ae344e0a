r"""A table in LaTeX with the rules of booktabs, for pdfTeX and LuaTeX alike.

It is scaled down where it is wider than the text. Numbers are set in maths. Text is ASCII and the Latin letters that
every LaTeX knows; other characters are written by their code points, so that any text compiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lrexp.report.render import Strong, shown

NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
QUANTITY = re.compile(rf"(?P<sign><?)(?P<mean>{NUMBER})(?: ± (?P<half>{NUMBER}))?(?P<rest>(?: .*)?)")
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
}
NO_WIDER = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"  # than the text; never enlarged
LETTERS = set("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿß")


def table(
    columns: Sequence[str], rows: Iterable[Mapping[str, object]], caption: Sequence[str], notes: Sequence[str] = ()
) -> str:
    """A `table` of `rows` under `columns`; the sentences of `caption` are joined, `notes` are comments below it."""
    cells = [[row.get(column) for column in columns] for row in rows]
    sides = "".join("r" if _is_numeric(column) else "l" for column in zip(*cells, strict=True)) or "l" * len(columns)
    sentences = " ".join(f"{escaped(_sentence(text))}." for text in caption)
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        r"  \setlength{\belowcaptionskip}{6pt}",
        *([rf"  \caption{{{sentences}}}"] if sentences else []),
        rf"  {NO_WIDER}{{\begin{{tabular}}{{@{{}}{sides}@{{}}}}",
        r"    \toprule",
        f"    {_line(columns)}",
        r"    \midrule",
        *(f"    {_line(row)}" for row in cells),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
        *(f"% {' '.join(note.split())}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX sets as it stands, on one line."""
    found = "".join(SPECIAL.get(letter) or _letter(letter) for letter in " ".join(text.split()))
    return re.sub("-(?=-)", "-{}", found)  # two in a row are no dash


def _letter(letter: str) -> str:
    if letter.isascii():
        return letter if letter.isprintable() else ""
    return letter if letter in LETTERS else rf"\texttt{{U+{ord(letter):04X}}}"


def _line(cells: Sequence[object]) -> str:
    return f"{' & '.join(_cell(value) for value in cells)} \\\\"


def _cell(value: object) -> str:
    """A number, or a mean with its half-width, in maths; anything else as text."""
    text = shown(value)
    found = QUANTITY.fullmatch(text)
    if found is None:
        return rf"\textbf{{{escaped(text)}}}" if isinstance(value, Strong) else escaped(text)
    mean = _number(found["mean"])
    mean = rf"\mathbf{{{mean}}}" if isinstance(value, Strong) else mean
    half = rf" \pm {_number(found['half'])}" if found["half"] else ""
    rest = f"~{escaped(found['rest'])}" if found["rest"] else ""
    return f"${found['sign']}{mean}{half}${rest}"


def _number(text: str) -> str:
    digits, _, exponent = text.replace(",", "{,}").partition("e")
    return rf"{digits} \times 10^{{{int(exponent)}}}" if exponent else digits


def _is_numeric(column: Iterable[object]) -> bool:
    texts = [text for value in column if (text := shown(value)) != "-"]
    return bool(texts) and all(QUANTITY.fullmatch(text) for text in texts)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".removesuffix(".")
