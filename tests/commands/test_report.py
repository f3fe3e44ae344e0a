"""The report: one file that holds all, runs nothing and fetches nothing; what went wrong is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lrexp.cli import main
from tests.report.made_up import write_progress, write_run

VOID = {"meta", "br"}


class Sound(HTMLParser):
    """Notes elements that are opened and closed out of order, and what would leave the file."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            outside = name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
            if outside or name.startswith("on"):
                self.wrong.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")


def runs(place: Path) -> Path:
    for method, quality in (("lora", 0.7), ("pissa", 0.8)):
        for rate in (1e-3, 3e-3):
            for seed in (1, 2, 3):
                metrics = {"accuracy": quality + rate + seed / 100, "validation_accuracy": quality - rate}
                written = write_run(
                    place / f"{method}-{rate}-{seed}", seed, method__name=method, training__learning_rate=rate,
                    result={"method": method, "metrics": metrics},
                )  # fmt: skip
                write_progress(written, 100)
    return place


def test_the_file_holds_all_and_needs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.html"
    line = ["report", str(runs(tmp_path / "runs")), "-o", str(out), "--baseline", "lora"]
    assert main([*line, "--tuned", "training.learning_rate", "--title", "A <b> & c"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text()
    parsed = Sound()
    parsed.feed(text)
    assert not parsed.wrong and not parsed.open
    assert {"table", "svg", "details", "dl"} <= parsed.seen and not {"script", "link", "img", "iframe"} & parsed.seen
    assert "@import" not in text and "url(http" not in text
    assert "A &lt;b&gt; &amp; c" in text and "<b>" not in text
    titles = re.findall(r"<h[23]>(.*?)</h[23]>", text)
    for title in ("Summary", "Comparison", "Learning curves", "Sensitivity to the learning rate", "Settings", "Runs"):
        assert title in titles
    assert "Failed runs" not in titles
    assert "against lora" in text and "12 finished" in text
    assert main([*line, "--tuned", "training.learning_rate", "--title", "A <b> & c"]) == 0
    assert out.read_text() == text  # the same runs, the same bytes


def test_failed_and_damaged_runs_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = runs(tmp_path / "runs")
    write_run(place / "bad", 4, result={"status": "failed", "error": "the loss is nan at step 3 <&>", "metrics": {}})
    (write_run(place / "torn", 5) / "result.json").write_text("{")
    out = tmp_path / "a.html"
    assert main(["report", str(place), "-o", str(out)]) == 2
    assert "1 of 14 runs have damaged files" in capsys.readouterr().err
    text = out.read_text()
    assert "Failed runs" in text and "the loss is nan at step 3 &lt;&amp;&gt;" in text and "damaged JSON" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "a.pdf"], "a report ends with .html"),
        (["-o", "nowhere/a.html"], "cannot be written"),
        (["--baseline", "lorra"], "lora"),
        (["--tuned", "method.r"], "--tuned method.r"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs(tmp_path / "runs")), *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("a.pdf").exists()


def test_without_matplotlib_the_pictures_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, out = runs(tmp_path / "runs"), tmp_path / "a.html"
    code = (
        "import sys; sys.modules['matplotlib'] = None; from lrexp.cli import main; "
        f"sys.exit(main(['report', {str(place)!r}, '-o', {str(out)!r}]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert 'pip install "lrexp[plot]"' in found.stderr
    assert "Comparison" in out.read_text() and "<svg" not in out.read_text()
