"""LaTeX of a table: what it escapes, what it sets in maths, and that TeX takes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lrexp.report.latex import escaped, table
from lrexp.report.render import Strong

COLUMNS = ["method_name", "accuracy", "p (Holm)", "trained", "marks & more"]
HOSTILE = "50% of $x_1^2$ & #3 {a} \\end{table} ~ <b> | --tuned ± ≤ é 中 “q” \x07"
ROWS: list[dict[str, object]] = [
    {"method_name": "full_rank", "accuracy": "0.7200 ± 0.0248", "p (Holm)": "0.012 over items", "trained": "41.2 k"},
    {"method_name": HOSTILE, "accuracy": Strong("0.8 ± 1.50e-04"), "p (Holm)": "<0.001", "marks & more": HOSTILE},
    {"method_name": Strong("best"), "accuracy": "-0.0123", "trained": "1,234", "marks & more": ["q", "v"]},
]
CAPTION = ["on test: mean ± half-width", HOSTILE]


def test_rows_stand_between_the_rules_of_booktabs() -> None:
    text = table(COLUMNS, ROWS, CAPTION)
    assert [rule for rule in re.findall(r"\\(\w+rule)", text)] == ["toprule", "midrule", "bottomrule"]
    lines = [line.strip() for line in text.splitlines() if line.rstrip().endswith(r"\\")]
    assert lines[0] == r"method\_name & accuracy & p (Holm) & trained & marks \& more \\"
    assert lines[1] == r"full\_rank & $0.7200 \pm 0.0248$ & $0.012$~over items & $41.2$~k & - \\"
    assert r"& $\mathbf{0.8} \pm 1.50 \times 10^{-4}$ & $<0.001$ & - &" in lines[2]
    assert lines[3] == r"\textbf{best} & $-0.0123$ & - & $1{,}234$ & [q, v] \\"
    assert all(len(re.findall(r"(?<!\\)&", line)) == 4 for line in lines) and len(lines) == 4
    assert r"\begin{tabular}{@{}lrrrl@{}}" in text
    assert r"\caption{On test: mean $\pm$ half-width. 50\% of" in text


def test_text_is_escaped_to_what_every_tex_knows() -> None:
    found = escaped(HOSTILE)
    assert found == (
        r"50\% of \$x\_1\textasciicircum{}2\$ \& \#3 \{a\} \textbackslash{}end\{table\} \textasciitilde{} "
        r"\textless{}b\textgreater{} \textbar{} -{}-tuned $\pm$ $\leq$ é \texttt{U+4E2D} "
        r"\texttt{U+201C}q\texttt{U+201D} "
    )
    assert escaped("a\nb\n\nc --- d") == "a b c -{}-{}- d"


def test_notes_are_comments_on_one_line_each() -> None:
    text = table(["a"], [{"a": 1}], [], ["failed: the loss\nis NaN %"])
    assert text.endswith("\\end{table}\n% failed: the loss is NaN %\n") and r"\caption" not in text


def braces(text: str) -> int:
    """Braces that are open at the end; -1 where one is closed that was not opened."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace(r"\\", "")):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return -1
    return depth


def test_braces_and_environments_are_balanced() -> None:
    text = table(COLUMNS, ROWS, CAPTION)
    assert braces(text) == 0 and text.replace(r"\$", "").count("$") % 2 == 0
    environments = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert environments == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs a TeX: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("rows", [ROWS, []])
def test_tex_compiles_it_within_the_text(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    wide = table([*COLUMNS, "long"], [row | {"long": "words " * 60} for row in rows], CAPTION, [HOSTILE])
    body = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{wide}\end{{document}}"
    (tmp_path / "paper.tex").write_text(body, encoding="utf-8")
    ended = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, errors="replace",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 1000 and "Overfull" not in ended.stdout
