import io
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest

from lrexp.report.figure import FORMATS, Drawing, grid, inline_svg, legend, marks, save, style
from lrexp.report.scale import exponent, metric_words, short, unit
from lrexp.spec.errors import InputError


def figure(label: str = "lora") -> Drawing:
    with style():
        found, (ax, *_) = grid(1, 1)
        (line,) = ax.plot([1, 2], [3, 4], label=label, **vars(marks([label])[label]))
        legend(found, {label: line})
    return Drawing(found, [])


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        save(figure().figure, tmp_path / f"{name}.{kind}")
    first, second = (tmp_path / f"{name}.{kind}" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert b"20" + b"26-" not in first.read_bytes() and b"Matplotlib v" not in first.read_bytes()


def test_no_setting_of_the_person_s_has_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = inline_svg(figure().figure, "a")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.family": "serif", "svg.fonttype": "none"}):
        assert inline_svg(figure().figure, "a") == plain
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_the_inline_picture_is_one_element_that_touches_nothing_else() -> None:
    text = inline_svg(figure().figure, 'loss of "lora" & full')
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and text.startswith("<svg")
    assert (root.get("role"), root.get("aria-label")) == ("img", 'loss of "lora" & full')
    assert "stroke-linejoin" in (root.get("style") or "")
    assert not re.search(r"<style|<metadata|<script|<g id=", text)
    other = inline_svg(figure("a longer label").figure, "b")
    define = re.compile(r'<path id="([^"]+)" d="([^"]+)"')
    both = dict(define.findall(text)).items() & dict(define.findall(other)).items()
    assert {name for name, _ in both} == dict(define.findall(text)).keys() & dict(define.findall(other)).keys()


def test_35_labels_differ_in_colour_and_line_together() -> None:
    found = marks([f"{i}" for i in range(35)])
    assert len({(mark.color, str(mark.linestyle)) for mark in found.values()}) == 35
    first = list(found.values())[:5]
    assert len({str(mark.linestyle) for mark in first}) == len({mark.marker for mark in first}) == 5  # without colour


def test_the_legend_lies_beside_the_panels() -> None:
    found = figure("a label that is long enough to need more than one line").figure
    found.savefig(io.BytesIO(), format="png")
    box = found.legends[0].get_window_extent()
    assert box.x0 >= found.axes[0].get_window_extent().x1 and box.x1 <= found.bbox.x1


def test_without_matplotlib_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r'pip install "lrexp\[plot\]"') as caught, style():
        pass
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(InputError, match=r"a\.svg: cannot be written"):
        save(figure().figure, tmp_path / "a.svg")


def test_units_and_ticks() -> None:
    assert unit("peak_memory_bytes", [2e9, 5e8, 3e9]).words == "peak memory, GB"
    assert unit("peak_memory_bytes", [2e8]).words == "peak memory, MB"
    assert unit("train_seconds", [30, 40]).words == "training time, seconds"
    assert unit("train_seconds", [7200]).words == "training time, hours"
    assert unit("step_seconds", [0.02]).words == "time of a step, milliseconds"
    assert [short(value) for value in (0, 0.5, 5000, 20_000, 1.5e6, 7e9, 0.001)] == [
        "0",
        "0.5",
        "5000",
        "20 k",
        "1.5 M",
        "7 B",
        "1e-3",
    ]
    assert [exponent(value) for value in (0.003, 0.01, 1.0)] == ["3e-3", "1e-2", "1e0"]
    assert metric_words("bits_per_byte", "test") == "bits per byte (test)"
    assert metric_words("test/exact_match", "validation") == "exact match (test)"
