"""One mean a cell, by any two keys."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from lrexp.report.collect import collect
from lrexp.report.entry import Options
from lrexp.report.table import FORMATS, print_pivot
from lrexp.spec.errors import InputError
from tests.report.made_up import write_failed, write_run


def write(folder: Path, mean: float, **changes: Any) -> None:
    name = "-".join(map(str, changes.values()))
    for seed in (1, 2):
        write_run(folder / f"{name}-{seed}", seed, mean + seed / 1000, **changes)


def printed(folder: Path, rows: str, columns: str, format: str = "md", options: Options | None = None) -> str:
    out = io.StringIO()
    print_pivot(collect([folder]), rows, columns, format, options or Options(), out)
    return out.getvalue()


def table(text: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def test_methods_by_datasets(tmp_path: Path) -> None:
    write(tmp_path, 0.8, method__name="lora", dataset__name="mrpc")
    write(tmp_path, 0.7, method__name="lora", dataset__name="rte")
    write(tmp_path, 0.9, method__name="pissa", dataset__name="mrpc")
    write_failed(tmp_path / "failed", method__name="full", dataset__name="rte")
    text = printed(tmp_path, "method", "dataset")
    assert table(text) == [
        ["method \\\\ dataset", "mrpc", "rte"],
        ["pissa", "0.9015 ± 0.0064", "-"],
        ["lora", "0.8015 ± 0.0064", "0.7015 ± 0.0064"],
        ["full", "-", "failed"],
    ]
    assert text.startswith("accuracy by method and dataset, model embedded\n")
    assert "- on test: mean ± half-width of the 95 % interval" in text
    assert "- marks of all: untuned, fewer than 3 seeds\n" in text
    write_run(tmp_path / "more", 3, 0.7, method__name="lora", dataset__name="rte")
    text = printed(tmp_path, "method", "dataset")
    assert "[a]" in table(text)[1][1] and "[" not in table(text)[2][2]
    assert "- marks of all: untuned\n- marks: a fewer than 3 seeds\n" in text


def test_numbers_go_up(tmp_path: Path) -> None:
    for rank, rate in ((16, 1e-3), (4, 1e-2), (8, 1e-3)):
        write(tmp_path, 0.5, method__r=rank, training__learning_rate=rate)
    found = table(printed(tmp_path, "training.learning_rate", "method.r"))
    assert found[0][1:] == ["4", "8", "16"] and [row[0] for row in found[1:]] == ["0.001", "0.01"]


def test_several_rows_in_a_cell_are_refused_with_what_sets_them_apart(tmp_path: Path) -> None:
    write(tmp_path, 0.5, method__r=4, optimizer__name="adamw")
    write(tmp_path, 0.6, method__r=8, optimizer__name="muon")
    with pytest.raises(InputError, match=r"2 rows share the cell lora, docmatch: .* in method\.r, optimizer$"):
        printed(tmp_path, "method", "dataset")
    assert len(table(printed(tmp_path, "method.r", "optimizer.name"))) == 3


def test_a_tuned_row_has_a_cell_of_its_own(tmp_path: Path) -> None:
    for rate, held_out in ((1e-3, 0.9), (1e-2, 0.1)):
        result = {"metrics.validation_accuracy": held_out}
        write_run(tmp_path / str(rate), 1, held_out, result=result, training__learning_rate=rate)
    options = Options(tuned=("training.learning_rate",))
    assert table(printed(tmp_path, "method", "dataset", options=options))[1][1].startswith("0.9000")


@pytest.mark.parametrize(("rows", "columns"), [("method", "dataset"), ("dataset", "method")])
def test_metrics_that_differ_stand_beside_their_values(tmp_path: Path, rows: str, columns: str) -> None:
    write(tmp_path, 0.8, dataset__name="mrpc")
    result = {"primary_metric": "pearson", "metrics.pearson": 0.9}
    write_run(tmp_path / "stsb", dataset__name="stsb", result=result)
    text = printed(tmp_path, rows, columns)
    found = table(text)
    names = found[0][1:] if columns == "dataset" else [row[0] for row in found[1:]]
    assert names == ["mrpc (accuracy)", "stsb (pearson)"] and "accuracy by" not in text


def test_bold_is_as_in_the_table_of_rows(tmp_path: Path) -> None:
    for method, values in (("lora", (0.8, 0.81, 0.8)), ("pissa", (0.9, 0.912, 0.905))):
        for seed, value in enumerate(values, start=1):
            write_run(tmp_path / f"{method}{seed}", seed, value, method__name=method)
    text = printed(tmp_path, "method", "dataset", options=Options(baseline="lora"))
    assert text.count("**0.9057 ± 0.0150**") == 1 and text.count("**") == 2
    assert "- tests: against lora, two-sided" in text
    assert r"$\mathbf{0.9057} \pm 0.0150$" in printed(tmp_path, "method", "dataset", "latex", Options(baseline="lora"))


def test_programs_get_one_object_a_cell(tmp_path: Path) -> None:
    write(tmp_path, 0.8, method__r=4)
    write(tmp_path, 0.7, method__r=8)
    found = json.loads(printed(tmp_path, "method", "method.r", "json"))
    assert [(cell["row"], cell["column"], round(cell["mean"], 4)) for cell in found] == [
        ("lora", "4", 0.8015),
        ("lora", "8", 0.7015),
    ]
    flat = list(csv.DictReader(io.StringIO(printed(tmp_path, "method", "method.r", "csv"))))
    assert [(row["column"], row["method.r"], row["n"]) for row in flat] == [("4", "4", "2"), ("8", "8", "2")]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_prints_it(tmp_path: Path, format: str) -> None:
    write(tmp_path, 0.8)
    assert "0.801" in printed(tmp_path, "model", "dataset", format)


def test_a_cell_says_its_metric_where_rows_and_columns_mix_them(tmp_path: Path) -> None:
    for method in ("lora", "pissa"):
        write(tmp_path, 0.8, method__name=method, dataset__name="mrpc")
        name = "f1" if method == "lora" else "accuracy"
        result = {"primary_metric": name, f"metrics.{name}": 0.7}
        write_run(tmp_path / f"rte-{method}", 1, 0.7, result, method__name=method, dataset__name="rte")
    found = table(printed(tmp_path, "method", "dataset"))
    assert sorted(row[2].split(" ")[-1] for row in found[1:]) == ["accuracy", "f1"]
