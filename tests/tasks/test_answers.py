"""Templates of rows, and answers that are found in texts."""

from __future__ import annotations

import pytest

from lrexp.tasks.answers import as_number, compiled, extract, same
from lrexp.tasks.template import Template

GSM8K = r"#### (-?[0-9.,]+)"
LAST_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"


def test_a_template_takes_columns_braces_and_line_breaks() -> None:
    template = Template(r"{a b}\n{{x}}: {c}{a b}")
    assert template.columns == ("a b", "c")
    assert template.fill({"a b": "1", "c": r"{a b}\n"}) == "1\n{x}: {a b}\\n1"  # a row's own braces are text


@pytest.mark.parametrize("text", ["{", "a}", "{}", "{{a}", "{a}}"])
def test_a_brace_that_stands_alone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="single"):
        Template(text)


@pytest.mark.parametrize(
    ("pattern", "text", "which", "answer"),
    [
        (GSM8K, "so 3\n#### 1,200\n\nQ: more\n#### 7", "first", "1,200"),
        (GSM8K, "so 3\n#### 1,200\n\nQ: more\n#### 7", "last", "7"),
        (GSM8K, "the answer is 3", "first", None),
        (LAST_NUMBER, "2 and 3 make 5.50.", "last", "5.50"),
        ("[A-E]", "(B) it is", "first", "B"),
    ],
)
def test_the_answer_in_a_text(pattern: str, text: str, which: str, answer: str | None) -> None:
    assert extract(compiled(pattern), text, which) == answer


def test_answers_agree_as_numbers_or_letter_by_letter() -> None:
    assert as_number("1,200.") == 1200 and as_number("-.5") == -0.5 and as_number(".") is None
    assert same("576.0", "576", 0.0) and not same("1.8333", "1.8343", 1e-4) and same("1.8333", "1.8334", 1e-3)
    assert not same("", "576", 1.0) and not same("576.0", "576", None) and same("B", "B", None)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "is no regular expression"),
        ("(a)(b)", "has 2 groups"),
        ("a*", "matches the empty text"),
        ("(?:a+)+b", "a repeat within a repeat"),
        ("(?:a?){20}a", "a repeat within a repeat"),
        ("(?:ab|a)*c", "alternatives within a repeat"),
        (r"(a)\1", "a reference to a group"),
        (r"(?=(?:a+)+b)c", "a repeat within a repeat"),
        ("a" * 201, "at most 200"),
    ],
)
def test_patterns_that_are_wrong_or_slow_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        compiled(pattern)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "pattern", [GSM8K, LAST_NUMBER, r"(?:is:?|####) *\$?(-?[0-9][0-9.,]*)", "(yes|no)", "a{2,3}b?"]
)
def test_patterns_of_use_are_taken(pattern: str) -> None:
    compiled(pattern)


@pytest.mark.parametrize("pattern", ["a?" * 66 + "a" * 66, r"\w*" * 6 + "!", "(" + "a?" * 11 + ")b"])
def test_many_parts_that_vary_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="can take forever"):
        compiled(pattern)
