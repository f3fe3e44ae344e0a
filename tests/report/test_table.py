import csv
import io
import json
import re
from pathlib import Path

import pytest

from lrexp.report.collect import collect
from lrexp.report.table import print_table
from tests.report.made_up import write_failed, write_progress, write_run, write_spec


def printed(folder: Path, format: str) -> str:
    out = io.StringIO()
    print_table(collect([folder]), format, out)
    return out.getvalue()


def rows(folder: Path) -> list[dict]:
    return json.loads(printed(folder, "json"))


def markdown(folder: Path) -> list[dict[str, str]]:
    lines = [line.strip("| ").split(" | ") for line in printed(folder, "md").splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two ranks of LoRA and full fine-tuning with three seeds each; one seed failed, one on the way, one row failed."""
    for seed in (1, 2, 3):
        write_run(tmp_path / f"lora-8-{seed}", seed, 0.7 + seed / 100)
        write_run(tmp_path / f"full-{seed}", seed, 0.6, method={"name": "full"}, training__learning_rate=1e-4)
    for seed in (1, 2):
        write_run(tmp_path / f"lora-16-{seed}", seed, 0.8, method__r=16)
    write_failed(tmp_path / "lora-16-3", 3, 40, "the loss is NaN\nTry a lower training.learning_rate.", method__r=16)
    write_progress(write_spec(tmp_path / "lora-8-4", 4), 120)
    write_failed(tmp_path / "lora-32-1", 1, None, "out of memory before the first step", method__r=32)
    return tmp_path


def test_json_rows_hold_raw_numbers(sweep: Path) -> None:
    found = rows(sweep)
    assert [(row["method"], row["keys"]["method.r"]) for row in found] == [
        ("lora", 16), ("lora", 8), ("full", None), ("lora", 32)
    ]  # fmt: skip
    row = found[1]
    assert row["dataset"] == "docmatch" and row["model"] == "embedded" and row["metric"] == "accuracy"
    assert (row["n"], row["seeds"], row["status"]) == (3, [1, 2, 3, 4], "partial")
    assert row["mean"] == pytest.approx(0.72) and row["spread"] == pytest.approx(0.01)
    assert row["interval"] == pytest.approx([0.72 - 0.0248414, 0.72 + 0.0248414], abs=1e-6)
    costs = ("trainable_parameters", "peak_memory_bytes", "step_seconds", "train_seconds")
    assert [row[name] for name in costs] == [41_200, 412_000_000, 0.0231, 38.2]
    assert row["marks"] == ["interrupted 120/300", "untuned"]
    assert found[0]["marks"] == ["1 failed (step 40)", "untuned", "fewer than 3 seeds"]
    assert all(row["rates_tried"] == 1 and row["p_value"] is row["test"] is None for row in found)
    assert row["runs"] == [str(sweep / f"lora-8-{seed}") for seed in (1, 2, 3, 4)]
    assert found[0]["failures"] == [
        {"run": str(sweep / "lora-16-3"), "status": "failed", "step": 40, "error": "the loss is NaN"}
    ]


def test_a_row_of_failed_runs_alone_has_no_mean(sweep: Path) -> None:
    row = rows(sweep)[-1]
    assert (row["status"], row["n"], row["mean"], row["interval"], row["marks"]) == (
        "failed",
        0,
        None,
        None,
        ["1 failed"],
    )
    assert row["failures"][0]["error"] == "out of memory before the first step"


def test_one_seed_has_its_standard_error_and_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (row,) = rows(tmp_path)
    assert (row["n"], row["spread"], row["interval"], row["standard_error"]) == (1, None, None, 0.0121)
    (shown,) = markdown(tmp_path)
    assert shown["accuracy"] == "0.7340 (se 0.0121)"


def test_csv_parses_back_with_one_value_a_column(sweep: Path) -> None:
    found = list(csv.DictReader(io.StringIO(printed(sweep, "csv"))))
    assert len(found) == 4
    row = found[1]
    assert (row["method"], row["method.r"], row["seeds"], row["n"]) == ("lora", "8", "1 2 3 4", "3")
    assert float(row["mean"]) == pytest.approx(0.72) and float(row["interval_low"]) < 0.72 < float(row["interval_high"])
    assert row["runs"].split("; ")[0] == str(sweep / "lora-8-1")
    assert found[-1]["mean"] == "" and "out of memory" in found[-1]["failures"]


def test_markdown_is_humane_and_says_what_went_wrong(sweep: Path) -> None:
    found = markdown(sweep)
    assert [row["r"] for row in found] == ["16", "8", "-", "32"]
    row = found[1]
    assert row["accuracy"] == "0.7200 ± 0.0248" and row["rates"] == "1"
    costs = ("trainable parameters", "peak memory", "preparation", "step time", "training time")
    assert [row[name] for name in costs] == ["41.2 k", "412 MB", "810 ms", "23.1 ms", "38.2 s"]
    assert [row["status"] for row in found] == ["1 failed (step 40)", "interrupted 120/300", "finished", "1 failed"]
    assert [row["marks"] for row in found] == ["untuned; fewer than 3 seeds", "untuned", "untuned", "-"]
    text = printed(sweep, "md")
    assert f"- failed at step 40: {sweep / 'lora-16-3'}: the loss is NaN\n" in text
    assert f"- failed: {sweep / 'lora-32-1'}: out of memory before the first step\n" in text


def test_rich_off_a_terminal_is_plain_and_whole(sweep: Path) -> None:
    text = printed(sweep, "rich")
    assert "\x1b" not in text and "dataset docmatch, model embedded" in text
    (line,) = [line for line in text.splitlines() if "0.7200 ± 0.0248" in line]
    assert "interrupted 120/300" in line and line.endswith("a")
    assert "marks: a untuned; b fewer than 3 seeds\n" in text


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_rich_at_a_terminal_keeps_rows_on_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    for rank in (4, 8):
        for seed in (1, 2):
            write_run(tmp_path / f"{rank}-{seed}", seed, 0.7 + seed / 100, method__r=rank)
    out = Terminal()
    print_table(collect([tmp_path]), "rich", out)
    table, _, notes = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).partition("on test: mean")
    assert table.count("0.7150 ± 0.0635") == 2
    assert all(len(line) <= width for line in table.splitlines())
    assert ("prepare" in table) == (width >= 80)
    assert ("left out, the terminal is narrow: train, prepare" in notes) == (width < 80)
    assert "memory" in table and "marks of all: untuned, fewer than 3 seeds\n" in notes


def test_other_data_is_another_row_with_the_fingerprint_in_sight(tmp_path: Path) -> None:
    write_run(tmp_path / "1", 1, 0.7)
    write_run(tmp_path / "2", 2, 0.8, provenance__data_fingerprint="abcdef9876")
    assert [(row["n"], row["data_fingerprint"]) for row in rows(tmp_path)] == [(1, "abcdef9876"), (1, "d4a7a0ffee")]
    assert [row["data"] for row in markdown(tmp_path)] == ["abcdef", "d4a7a0"]
    assert "weights" not in markdown(tmp_path)[0]


def test_other_weights_of_the_base_model_are_in_sight(tmp_path: Path) -> None:
    write_run(tmp_path / "1", 1)
    write_run(tmp_path / "2", 1, provenance__model_fingerprint="abcdef9876")
    assert {row["weights"] for row in markdown(tmp_path)} == {"abcdef", "0de1be"}


def test_fingerprints_are_hidden_where_rows_look_different_anyway(tmp_path: Path) -> None:
    write_run(tmp_path / "1")
    write_run(tmp_path / "2", dataset__name="mrpc", provenance__data_fingerprint="abcdef9876")
    assert "data" not in markdown(tmp_path)[0]


def test_several_metrics_stand_under_their_names(tmp_path: Path) -> None:
    write_run(tmp_path / "1", dataset__name="mrpc")
    write_run(tmp_path / "2", dataset__name="stsb", result={"primary_metric": "pearson", "metrics.pearson": 0.9})
    assert [(row["metric"], row["mean"][:6]) for row in markdown(tmp_path)] == [
        ("accuracy", "0.7340"),
        ("pearson", "0.9000"),
    ]


def test_rows_go_by_dataset_and_model_and_then_the_best_first(tmp_path: Path) -> None:
    for name, dataset, model, accuracy in (
        ("1", "b", "x", 0.9),
        ("2", "a", "y", 0.1),
        ("3", "a", "x", 0.2),
        ("4", "a", "x", 0.3),
    ):
        write_run(tmp_path / name, 1, accuracy, dataset__name=dataset, model__name=model, method__r=int(name))
    assert [row["mean"] for row in rows(tmp_path)] == [0.3, 0.2, 0.1, 0.9]
    low = {"primary_metric": "perplexity"}
    for name, value in (("5", 20.0), ("6", 10.0)):
        write_run(
            tmp_path / name, 1, dataset__name="c", method__r=int(name), result=low | {"metrics.perplexity": value}
        )
    assert [row["mean"] for row in rows(tmp_path)][-2:] == [10.0, 20.0]


def test_experiments_have_a_column_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "1", experiment="roberta_mrpc")
    assert rows(tmp_path)[0]["experiment"] == "roberta_mrpc"
    assert markdown(tmp_path)[0]["experiment"] == "roberta_mrpc"


def test_a_long_mark_is_short_in_its_cell_and_whole_below(tmp_path: Path) -> None:
    write_run(tmp_path / "1", result={"marks": ["versions differ: torch 2.9.0 -> 2.10.0"]})
    assert markdown(tmp_path)[0]["marks"].startswith("versions differ; untuned")
    assert "lora: versions differ: torch 2.9.0 -> 2.10.0" in printed(tmp_path, "md")
