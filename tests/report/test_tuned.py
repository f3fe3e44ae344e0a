"""Rows of which the tuned key is chosen on data that are not reported."""

from pathlib import Path
from typing import Any

import pytest

from lrexp.report.collect import collect
from lrexp.report.group import Group, group
from lrexp.report.tuned import rate_family, rates_tried, selected, tuned
from lrexp.spec.errors import InputError
from tests.report.made_up import write_failed, write_run

RATE = "training.learning_rate"


def chosen(folder: Path, *keys: str) -> list[Group]:
    return tuned(group(collect([folder])), keys or (RATE,))


def write(folder: Path, validation: float | None, rate: float, seed: int = 1, **changes: Any) -> None:
    name = f"{rate}-{seed}-{'-'.join(map(str, changes.values()))}".replace("/", "_")
    result = {"metrics.validation_accuracy": validation}
    write_run(folder / name, seed, result=result, training__learning_rate=rate, **changes)


def rates(groups: list[Group]) -> list[Any]:
    return [found.identity[RATE] for found in groups]


def test_the_best_mean_over_seeds_wins_in_each_family(tmp_path: Path) -> None:
    for seed, (low, high) in enumerate([(0.9, 0.8), (0.5, 0.7)]):
        write(tmp_path, low, 1e-3, seed)
        write(tmp_path, high, 1e-2, seed)
    write(tmp_path, 0.1, 1e-2, method__r=4)
    write(tmp_path, 0.2, 1e-3, method__r=4)
    found = chosen(tmp_path)
    assert sorted((one.identity["method.r"], one.identity[RATE]) for one in found) == [(4, 1e-3), (8, 1e-2)]
    assert sorted(len(one.runs) for one in found) == [1, 2]


def test_losses_are_best_where_they_are_least(tmp_path: Path) -> None:
    for rate, loss in ((1e-3, 2.0), (1e-2, 1.0)):
        metrics = {"primary_metric": "perplexity", "metrics": {"perplexity": 9.0, "validation_perplexity": loss}}
        write_run(tmp_path / str(rate), accuracy=None, result=metrics, training__learning_rate=rate)
    assert rates(chosen(tmp_path)) == [1e-2]


def test_what_is_reported_chooses_nothing(tmp_path: Path) -> None:
    for rate, held_out in ((1e-3, 0.6), (1e-2, 0.5)):
        metrics = {"accuracy": 1 - held_out, "validation_accuracy": 1 - held_out, "selection_accuracy": held_out}
        result = {"evaluated_on": "validation", "metrics": metrics}
        write_run(tmp_path / str(rate), result=result, training__learning_rate=rate)
    assert rates(chosen(tmp_path)) == [1e-3]
    assert selected(group(collect([tmp_path]))[0]) == 0.6


def test_rows_without_a_value_stay_only_where_none_of_the_family_has_one(tmp_path: Path) -> None:
    write(tmp_path, 0.5, 1e-3)
    write_failed(tmp_path / "failed", training__learning_rate=1e-2)
    write_failed(tmp_path / "all-failed", training__learning_rate=1e-2, method__r=2)
    found = chosen(tmp_path)
    assert sorted((one.identity["method.r"], one.identity[RATE]) for one in found) == [(2, 1e-2), (8, 1e-3)]


def test_other_data_are_another_family(tmp_path: Path) -> None:
    write(tmp_path, 0.5, 1e-3)
    write(tmp_path, 0.6, 1e-2, provenance__data_fingerprint="0ther")
    assert sorted(rates(chosen(tmp_path))) == [1e-3, 1e-2]


def test_what_cannot_be_chosen_is_said(tmp_path: Path) -> None:
    write(tmp_path, 0.5, 1e-3)
    with pytest.raises(InputError, match=f"--tuned {RATE}: the runs do not differ in it, only in seeds"):
        chosen(tmp_path)
    with pytest.raises(InputError, match=r"--tuned method\.rr: the runs do not differ in it"):
        chosen(tmp_path, "method.rr")
    write(tmp_path / "other", None, 1e-2)
    write(tmp_path / "other", None, 1e-3, seed=2)
    with pytest.raises(InputError, match="needs runs with a metric of validation beside that of test"):
        chosen(tmp_path / "other")


def test_rates_are_counted_within_what_is_otherwise_alike(tmp_path: Path) -> None:
    for seed in (1, 2):
        write(tmp_path, 0.5, 1e-3, seed)
    write(tmp_path, 0.6, 1e-2)
    write_failed(tmp_path / "failed", training__learning_rate=1.0)
    write(tmp_path, 0.7, 1e-3, method__r=4)
    groups = group(collect([tmp_path]))
    rates = rates_tried(groups)
    assert {(one.identity["method.r"], rates[rate_family(one)]) for one in groups} == {(8, 3), (4, 1)}
    assert set(rates_tried(groups, ["method.r"]).values()) == {3}
