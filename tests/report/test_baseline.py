"""Rows against a baseline: who is compared with whom, and whose mean may be bold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from scipy import stats

from lrexp.report.baseline import against, bold
from lrexp.report.collect import collect
from lrexp.report.group import Group, group
from lrexp.spec.errors import InputError
from tests.report.made_up import write_failed, write_run

LORA = {1: 0.80, 2: 0.82, 3: 0.81, 4: 0.80}
BETTER = {1: 0.90, 2: 0.93, 3: 0.915, 4: 0.902}
SAME = {1: 0.81, 2: 0.81, 3: 0.80, 4: 0.81}
WORSE = {1: 0.70, 2: 0.71, 3: 0.72, 4: 0.70}


def write(folder: Path, method: str, values: dict[int, float], tag: str = "", **changes: Any) -> None:
    for seed, value in values.items():
        write_run(folder / f"{method}{tag}-{seed}", seed, value, method__name=method, **changes)


def compared(folder: Path, baseline: str = "lora") -> dict[str, Any]:
    groups: list[Group] = group(collect([folder]))
    found = against(groups, baseline)
    strong = bold(groups, found, baseline)
    return {str(one.part("method")): pair for one, *pair in zip(groups, found, strong, strict=True)}


def test_only_seeds_that_both_have_are_paired(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA)
    write(tmp_path, "pissa", {2: 0.9, 3: 0.93, 4: 0.91, 9: 0.1})
    comparison, _ = compared(tmp_path)["pissa"]
    assert comparison is not None and comparison.test.pairs == 3
    assert comparison.test.difference == pytest.approx(0.31 / 3)
    expected = stats.ttest_rel([0.9, 0.93, 0.91], [0.82, 0.81, 0.80]).pvalue
    assert comparison.test.p_value == comparison.corrected == pytest.approx(expected)


def test_one_pair_is_no_test(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA)
    write(tmp_path, "pissa", {4: 0.9, 5: 0.9})
    comparison, strong = compared(tmp_path)["pissa"]
    assert comparison is not None and (comparison.test.pairs, comparison.test.p_value) == (1, None)
    assert comparison.corrected is None and not strong


def test_holm_corrects_within_a_block_alone(tmp_path: Path) -> None:
    for dataset in ("mrpc", "rte"):
        write(tmp_path, "lora", LORA, dataset, dataset__name=dataset)
        write(tmp_path, "pissa", BETTER, dataset, dataset__name=dataset)
    write(tmp_path, "eva", SAME, dataset__name="mrpc")
    groups = group(collect([tmp_path]))
    found = zip(groups, against(groups, "lora"), strict=True)
    factors = {
        (one.part("method"), one.part("dataset")): test.corrected / test.test.p_value  # type: ignore[operator]
        for one, test in found
        if test
    }
    assert factors == {("pissa", "mrpc"): 2, ("eva", "mrpc"): 1, ("pissa", "rte"): 1}


def test_other_data_under_the_same_name_are_another_block(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA)
    write(tmp_path, "pissa", BETTER, provenance__data_fingerprint="0ther")
    assert compared(tmp_path)["pissa"] == [None, False]


def test_the_best_is_bold_only_if_it_beats_the_baseline(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA)
    write(tmp_path, "eva", SAME)
    assert not any(strong for _, strong in compared(tmp_path).values())
    write(tmp_path, "pissa", BETTER)
    assert {method for method, (_, strong) in compared(tmp_path).items() if strong} == {"pissa"}


def test_the_baseline_is_bold_only_if_all_others_differ(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA)
    assert not compared(tmp_path)["lora"][1]
    write(tmp_path, "full", WORSE)
    assert compared(tmp_path)["lora"][1]
    write(tmp_path, "eva", {seed: value - 0.001 * (seed % 2) for seed, value in LORA.items()})
    assert not compared(tmp_path)["lora"][1]


def test_a_loss_is_best_where_it_is_least(tmp_path: Path) -> None:
    for method, values in (("lora", LORA), ("full", WORSE), ("pissa", BETTER)):
        for seed, value in values.items():
            result = {"primary_metric": "perplexity", "metrics": {"perplexity": 10 * value}}
            write_run(tmp_path / f"{method}-{seed}", seed, result=result, method__name=method)
    assert {method for method, (_, strong) in compared(tmp_path).items() if strong} == {"full"}


def test_an_ambiguous_baseline_is_refused_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA)
    write(tmp_path, "lora", LORA, "-fast", training__learning_rate=1e-2)
    write(tmp_path, "pissa", BETTER)
    rate = r"training\.learning_rate"
    with pytest.raises(
        InputError, match=rf"lora is ambiguous: 2 rows of docmatch, .* differ in {rate}; --tuned {rate}"
    ):
        compared(tmp_path)
    assert compared(tmp_path, "pissa")["pissa"] == [None, True]
    with pytest.raises(InputError, match=r"--baseline pisa: unknown method of the table\. Did you mean 'pissa'"):
        compared(tmp_path, "pisa")


def test_a_failed_rate_makes_no_baseline_ambiguous(tmp_path: Path) -> None:
    write(tmp_path, "lora", LORA)
    write_failed(tmp_path / "failed", training__learning_rate=1.0)
    write(tmp_path, "pissa", BETTER)
    assert compared(tmp_path)["pissa"][1]


def answers(folder: Path, predictions: list[int], labels: list[int], **columns: list[Any]) -> None:
    table = {"row": list(range(len(labels))), "label": labels, "prediction": predictions, **columns}
    parquet.write_table(pa.table(table), folder / "predictions.parquet")


LABELS = [0, 1] * 10


def test_single_runs_are_tested_over_items_and_never_bold(tmp_path: Path) -> None:
    answers(write_run(tmp_path / "a", 1, 0.5), [0] * 20, LABELS)
    answers(write_run(tmp_path / "b", 7, 1.0, method__name="pissa"), LABELS, LABELS)
    comparison, strong = compared(tmp_path)["pissa"]
    assert comparison is not None and (comparison.test.name, comparison.test.pairs) == ("over items", 20)
    assert comparison.test.difference == 0.5 and comparison.corrected == pytest.approx(2 / 1024)
    assert not comparison.significant and not strong


@pytest.mark.parametrize("why", ["labels", "number", "metric", "no file"])
def test_other_items_are_no_test(tmp_path: Path, why: str) -> None:
    result = {"primary_metric": "f1"} if why == "metric" else {}
    answers(write_run(tmp_path / "a", 1, 0.5, result), [0] * 20, LABELS)
    other = write_run(tmp_path / "b", 1, 1.0, result, method__name="pissa")
    labels = {"labels": [1, 0] * 10, "number": LABELS[:-1]}.get(why, LABELS)
    if why != "no file":
        answers(other, labels, labels)
    comparison, _ = compared(tmp_path)["pissa"]
    assert comparison is not None and comparison.test.name is comparison.test.p_value is None
    assert comparison.test.pairs == 1


def test_written_answers_are_right_as_the_task_says(tmp_path: Path) -> None:
    result = {"primary_metric": "exact_match", "metrics.exact_match": 0.5}
    for name, correct in (("lora", [0.0] * 20), ("pissa", [1.0] * 20)):
        folder = write_run(tmp_path / name, 1, result=result, method__name=name)
        answers(folder, [5] * 20, LABELS, correct=correct)
    comparison, _ = compared(tmp_path)["pissa"]
    assert comparison is not None and comparison.test.difference == 1.0


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    for name in ("lora", "pissa"):
        (write_run(tmp_path / name, 1, method__name=name) / "predictions.parquet").write_text("PAR1")
    with pytest.raises(InputError, match=r"predictions\.parquet: cannot be read"):
        compared(tmp_path)
