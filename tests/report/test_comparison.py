"""`print_table` with a baseline, tuned rates and papers' values: the same facts in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from lrexp.report.collect import collect
from lrexp.report.entry import Options
from lrexp.report.table import FORMATS, print_table
from tests.report.made_up import write_run
from tests.report.test_baseline import BETTER, LORA, SAME, answers, write
from tests.report.test_paper import SETTINGS

OPTIONS = Options(baseline="lora")


def printed(folder: Path, format: str, options: Options = OPTIONS) -> str:
    out = io.StringIO()
    print_table(collect([folder]), format, out, options)
    return out.getvalue()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    write(tmp_path, "lora", LORA)
    write(tmp_path, "pissa", BETTER)
    write(tmp_path, "eva", SAME)
    return tmp_path


def test_json_has_the_test_of_each_row(three: Path) -> None:
    rows = {row["method"]: row for row in json.loads(printed(three, "json"))}
    assert rows["lora"]["p_value"] is rows["lora"]["difference"] is rows["lora"]["test"] is None
    row = rows["pissa"]
    assert (row["test"], row["pairs"]) == ("paired t", 4) and row["difference"] == pytest.approx(0.10425)
    assert row["p_value_corrected"] == 2 * row["p_value"] < 0.001
    assert rows["eva"]["p_value_corrected"] == rows["eva"]["p_value"] > 0.5
    flat = {row["method"]: row for row in csv.DictReader(io.StringIO(printed(three, "csv")))}
    assert float(flat["pissa"]["p_value"]) == row["p_value"] and flat["lora"]["test"] == ""


def test_markdown_has_it_in_words(three: Path) -> None:
    text = printed(three, "md")
    assert "| **0.9118 ± 0.0221** | +0.1043 | <0.001 |" in text and text.count("**") == 2
    assert "- tests: against lora, two-sided, paired over the seeds that both have" in text
    assert "- bold: the best mean of a dataset, model and metric, if it is better than lora with corrected p ≤" in text


def test_the_caption_of_latex_states_n_seeds_selection_and_rule(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA, training__selection="best")
    write(tmp_path, "pissa", BETTER, training__selection="best")
    text = printed(tmp_path, "latex")
    (caption,) = [line for line in text.splitlines() if r"\caption{" in line]
    assert "Dataset docmatch, model embedded." in caption and "Seeds: n = 4 in each row (1, 2, 3, 4)." in caption
    assert "Selection: the weights that are best on data held out for it." in caption
    assert "Bold: the best mean of a dataset, model and metric, if it is better than lora" in caption
    assert r"pissa & $4$ & $\mathbf{0.9118} \pm 0.0221$ & $+0.1043$ & $<0.001$ &" in text


def test_html_shows_what_markdown_shows(three: Path) -> None:
    text = printed(three, "html")
    assert "<td><strong>0.9118 ± 0.0221</strong></td><td>+0.1043</td><td>&lt;0.001</td>" in text


@pytest.mark.parametrize("format", FORMATS)
def test_a_p_value_over_items_says_so_in_every_format(tmp_path: Path, format: str) -> None:
    labels = [0, 1] * 10
    answers(write_run(tmp_path / "a", 1, 0.5), [0] * 20, labels)
    answers(write_run(tmp_path / "b", 1, 0.75, method__name="pissa"), [0] * 10 + labels[10:], labels)
    text = printed(tmp_path, format)
    assert "over items" in text and "0.06" in text and "**" not in text and "mathbf" not in text


@pytest.mark.parametrize("format", ["rich", "md", "latex", "html"])
def test_a_baseline_that_is_missing_in_a_block_is_named(three: Path, format: str) -> None:
    write(three, "pissa", BETTER, "rte", dataset__name="rte")
    assert "o lora to compare with on the same content: rte with embedded" in printed(three, format)


def test_planned_memory_stands_beside_measured_where_a_run_has_it(tmp_path: Path) -> None:
    write_run(tmp_path / "1", 1)
    assert "planned" not in printed(tmp_path, "md", Options())
    write_run(tmp_path / "2", 2, result={"costs.planned_peak_bytes": 398_000_000})
    text = printed(tmp_path, "md", Options())
    assert "| planned memory | peak memory |" in text and "| 398 MB | 412 MB |" in text
    (row,) = json.loads(printed(tmp_path, "json", Options()))
    assert (row["planned_peak_bytes"], row["peak_memory_bytes"]) == (398_000_000, 412_000_000)


def test_a_papers_value_stands_beside_ours_and_is_marked(tmp_path: Path) -> None:
    stained = {"marks": ["selected on test"]}
    for seed in (1, 2):
        write_run(tmp_path / f"{seed}", seed, 0.89 + seed / 1000, stained, **{**SETTINGS, "method__r": 4})
    options = Options(with_paper=True)
    (row,) = json.loads(printed(tmp_path, "json", options))
    assert row["reported"] == 0.897 and "table 2, row RoB base (LoRA)" in row["reported_in"]
    assert row["marks"] == [
        "selected on test", "untuned", "fewer than 3 seeds", "reported value copied from paper",
        "settings changed: method.r",
    ]  # fmt: skip
    text = printed(tmp_path, "md", options)
    assert "| 0.8915 ± 0.0064 | 0.8970 (copied) |" in text
    assert "- reported: copied from paper, not run here and in no test (Hu et al. 2021" in text
    assert "- lora: settings changed: method.r\n" in text
    assert "copied" not in printed(tmp_path, "md", Options())


def test_rates_behind_a_tuned_row_are_counted(tmp_path: Path) -> None:
    for rate, held_out in ((1e-3, 0.9), (1e-2, 0.1), (3e-3, 0.5)):
        result = {"metrics.validation_accuracy": held_out}
        write_run(tmp_path / str(rate), 1, held_out, result, training__learning_rate=rate)
    options = Options(tuned=("training.learning_rate",))
    (row,) = json.loads(printed(tmp_path, "json", options))
    assert (row["rates_tried"], row["marks"]) == (3, ["fewer than 3 seeds"])
    assert "- learning rates: 3 tried for each row\n" in printed(tmp_path, "md", options)
    assert "3 tried for each row, each in a row of its own" in printed(tmp_path, "md", Options())


def test_without_steps_no_rate_is_untuned(tmp_path: Path) -> None:
    write_run(tmp_path / "1", training__max_steps=0)
    (row,) = json.loads(printed(tmp_path, "json", Options()))
    assert row["marks"] == ["fewer than 3 seeds"]
