from pathlib import Path

import pytest

from lrexp.report.collect import collect
from lrexp.report.group import Group, differing, group
from lrexp.report.marks import failures, marks, status
from tests.report.made_up import write_failed, write_progress, write_run, write_spec


def groups(folder: Path) -> list[Group]:
    return group(collect([folder]))


def test_seeds_of_one_spec_are_one_row(tmp_path: Path) -> None:
    for seed, accuracy in ((2, 0.8), (1, 0.7), (3, 0.9)):
        write_run(tmp_path / str(seed), seed, accuracy)
    (found,) = groups(tmp_path)
    assert found.values == {1: 0.7, 2: 0.8, 3: 0.9}
    assert found.summary is not None and found.summary.n == 3 and found.summary.mean == pytest.approx(0.8)
    assert (status(found), marks(found), found.standard_error) == ("finished", [], None)


@pytest.mark.parametrize(
    "changes",
    [
        {"method__r": 4},
        {"method__target_modules": ["q"]},
        {"training__learning_rate": 0.001},
        {"hardware__precision": "bf16"},
        {"hardware__threads": 1},
        {"dataset__max_length": 32},
        {"model__name": "bert"},
        {"optimizer__weight_decay": 0.0},
        {"result": {"data_fingerprint": "ffffff"}},
        {"result": {"model_fingerprint": "ffffff"}},
        {"init_from": "there", "provenance__init_fingerprint": "aaa"},
        {"init_from": "there", "result": {"init_fingerprint": "aaa"}},
        {"result": {"primary_metric": "f1"}},
        {"result": {"evaluated_on": "validation"}},
    ],
)
def test_what_decides_numbers_is_never_pooled(tmp_path: Path, changes: dict) -> None:
    write_run(tmp_path / "a", 1)
    write_run(tmp_path / "b", 2, **changes)
    assert [found.seeds for found in groups(tmp_path)] == [[1], [2]]


@pytest.mark.parametrize(
    "changes",
    [
        {"training__logging_steps": 1, "training__save_steps": None},
        {"tracking__name": "wandb"},
        {"experiment": "glue_mrpc"},
        {"method__tuning": {"learning_rate": 1.0}},
        {"model__learning_rate_factor": 1.0},
        {"model__path": "/elsewhere/model", "dataset__path": "moved.jsonl"},
        {"model__tokenizer": None, "model__tokenizer_path": "/elsewhere/tokenizer"},
        {"init_from": None},
        {"provenance__git": {"commit": "0" * 40}},
    ],
)
def test_what_decides_nothing_does_not_part_seeds(tmp_path: Path, changes: dict) -> None:
    write_run(tmp_path / "a", 1)
    write_run(tmp_path / "b", 2, **changes)
    assert [found.seeds for found in groups(tmp_path)] == [[1, 2]]


def test_unfinished_runs_join_the_row_of_their_spec_without_a_number(tmp_path: Path) -> None:
    write_run(tmp_path / "1", 1, 0.7)
    write_failed(tmp_path / "2", 2, step=40, error="the loss is NaN")
    write_progress(write_spec(tmp_path / "3", 3), 120)
    (write_run(tmp_path / "4", 4) / "result.json").write_text("{")
    (found,) = groups(tmp_path)
    assert found.summary is not None and found.summary.n == 1 and found.seeds == [1, 2, 3, 4]
    assert marks(found) == ["1 failed (step 40)", "interrupted 120/300", "1 damaged"]
    assert status(found) == "partial"
    assert [failure["step"] for failure in failures(found)] == [40, None]


def test_a_run_joins_no_row_on_other_data(tmp_path: Path) -> None:
    write_run(tmp_path / "1", 1, provenance={"data_fingerprint": "aaa", "model_fingerprint": "m"})
    write_run(tmp_path / "2", 1, provenance={"data_fingerprint": "bbb", "model_fingerprint": "m"})
    write_spec(tmp_path / "3", 2, provenance={"data_fingerprint": "bbb", "model_fingerprint": "m"})
    write_spec(tmp_path / "4", 3, provenance={"data_fingerprint": "ccc", "model_fingerprint": "m"})
    write_spec(tmp_path / "5", 4, provenance={})  # could be either: it stands alone
    assert [found.seeds for found in groups(tmp_path)] == [[1], [1, 2], [3], [4]]


def test_runs_that_start_from_another_are_pooled_by_its_weights(tmp_path: Path) -> None:
    places = ("here", "aaa"), ("there", "aaa"), ("there", "bbb")
    for seed, (place, content) in enumerate(places):
        write_run(tmp_path / str(seed), seed, init_from=place, result={"init_fingerprint": content})
    write_spec(tmp_path / "3", 3, init_from="elsewhere", provenance__init_fingerprint="bbb")
    write_run(tmp_path / "4", 4, init_from="there")  # of what is not known
    assert [found.seeds for found in groups(tmp_path)] == [[0, 1], [2, 3], [4]]
    assert differing(groups(tmp_path)) == ["init_from"]


def test_a_repeated_seed_counts_once(tmp_path: Path) -> None:
    for name, seed, accuracy in (("run", 1, 0.7), ("run-2", 1, 0.7), ("run-3", 2, 0.8)):
        write_run(tmp_path / name, seed, accuracy)
    (found,) = groups(tmp_path)
    assert found.values == {1: 0.7, 2: 0.8}
    assert marks(found) == ["seed 1 repeated, counted once"]
    write_run(tmp_path / "run-2", 1, 0.9)
    (found,) = groups(tmp_path)
    assert found.values == {1: 0.7, 2: 0.8}
    assert marks(found) == ["seed 1 repeated with other metrics, counted once"]


def test_an_undefined_metric_is_no_number(tmp_path: Path) -> None:
    write_run(tmp_path / "1", 1, None)
    write_run(tmp_path / "2", 2, 0.8)
    (found,) = groups(tmp_path)
    assert found.values == {2: 0.8} and marks(found) == ["accuracy undefined for seed 1"]
    assert found.standard_error == 0.0121


def test_marks_of_results_and_of_their_differences(tmp_path: Path) -> None:
    write_run(tmp_path / "1", 1, result={"marks": ["selected on test"]})
    write_run(tmp_path / "2", 2, result={"marks": ["selected on test"], "versions": {"torch": "2.10"}})
    write_run(tmp_path / "3", 3, result={"hardware.device_name": "another"})
    (found,) = groups(tmp_path)
    assert marks(found) == ["selected on test", "versions differ", "hardware differs"]


def test_costs_are_medians_of_times_and_largest_sizes(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(
            tmp_path / str(seed), seed, result={"costs.step_seconds": seed * seed, "costs.peak_memory_bytes": seed}
        )
    write_failed(tmp_path / "4", 4)
    (found,) = groups(tmp_path)
    assert (found.costs["step_seconds"], found.costs["peak_memory_bytes"]) == (4, 3)
    assert found.costs["peak_memory_reserved_bytes"] is None


def test_differing_keys_are_those_that_tell_rows_of_one_block_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "1")
    write_run(tmp_path / "2", method__r=4)
    write_run(tmp_path / "3", method={"name": "full"}, training__learning_rate=1e-4)
    write_run(tmp_path / "4", method={"name": "pissa", "r": 8, "svd": "exact"})
    write_run(tmp_path / "5", model={"name": "bert", "kind": "encoder", "dropout": 0.1}, training__max_steps=10)
    assert differing(groups(tmp_path)) == ["method.r", "training.learning_rate"]


def test_keys_of_some_methods_count_within_a_method(tmp_path: Path) -> None:
    write_run(tmp_path / "1", method={"name": "full"})
    write_run(tmp_path / "2", method={"name": "pissa", "svd": "exact"})
    write_run(tmp_path / "3", method={"name": "galore", "svd": "subspace"})
    assert differing(groups(tmp_path)) == []
    write_run(tmp_path / "4", method={"name": "pissa", "svd": "randomized"})
    assert differing(groups(tmp_path)) == ["method.svd"]


def test_places_are_told_apart_only_with_other_content(tmp_path: Path) -> None:
    write_run(tmp_path / "1", dataset__path="a.csv")
    write_run(tmp_path / "2", dataset__path="b.csv", method__r=4)
    assert differing(groups(tmp_path)) == ["method.r"]
    write_run(tmp_path / "3", dataset__path="c.csv", provenance__data_fingerprint="other")
    assert differing(groups(tmp_path)) == ["dataset.path", "method.r"]


def test_many_runs_are_grouped_quickly(tmp_path: Path) -> None:
    for number in range(100):
        write_spec(tmp_path / str(number), number % 5, method__r=1 + number // 5)
    assert len(groups(tmp_path)) == 20
