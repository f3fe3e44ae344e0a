"""The fragment of HTML that a page takes in."""

from html.parser import HTMLParser

from lrexp.report.html import fragment
from lrexp.report.render import Strong


class Cells(HTMLParser):
    """The texts of the cells, row by row, and the elements that were opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.add(tag)
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_text_comes_back_as_it_was_and_opens_no_element() -> None:
    hostile = "<script>alert(1)</script> & \"q\" 'a' ±"
    text = fragment(["method", hostile], [{"method": Strong("a<b"), hostile: hostile}], [hostile, "n"], [hostile])
    found = Cells()
    found.feed(text)
    assert found.rows == [["method", hostile], ["a<b", hostile]] and found.open == []
    assert found.elements == {"table", "caption", "br", "thead", "tbody", "tr", "th", "td", "strong", "ul", "li"}
    assert text.startswith("<table>") and "script>" not in text


def test_without_caption_and_notes_there_is_the_table_alone() -> None:
    text = fragment(["a"], [{"a": None}], [])
    assert "<td>-</td>" in text and "caption" not in text and "<ul>" not in text
