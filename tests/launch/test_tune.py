"""Tuning: who goes on, what it costs, and that a run which stood still ends with the bytes of one that did not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lrexp.cli import main
from lrexp.launch.job import Job
from lrexp.launch.sampler import TPE, Grid
from lrexp.launch.tune import Family, standing, tune
from lrexp.report.collect import collect
from lrexp.spec import rungs
from lrexp.spec.errors import InputError
from lrexp.spec.tuning import Tuning, fractions, grid, split
from tests.conftest import merged

BRIEF = ("training.max_steps=12", "training.save_steps=5")
BYTES = ("metrics.jsonl", "adapter.safetensors", "predictions.parquet")


def line(tiny: list[str], root: Path, *words: str) -> list[str]:
    base = [word for word in tiny if not word.startswith("training.learning_rate=")]
    return ["train", *merged(base, (*BRIEF, *words, f"output_dir={root}"))]


def quality(value: float) -> float:
    return 1 - abs(math.log10(value) + 2)  # best at 0.01


class Bench:
    """Runs jobs by writing their rungs: how good a value is does not depend on the step."""

    def __init__(
        self, root: Path, metric: str = "accuracy", failing: tuple[float, ...] = (), steps: float = 1e9
    ) -> None:
        self.root, self.metric, self.failing, self.steps = root, metric, failing, steps
        self.ran: list[tuple[str, int]] = []

    def make(self, values: list[float]) -> list[Job]:
        return [Job(None, self.root / f"{v:g}", f"{v:g}", "", 100) for v in values]  # type: ignore[arg-type]

    def run(self, jobs: list[Job]) -> list[Job]:
        for job in jobs:
            assert job.until is not None
            self.ran.append((job.label, job.until))
            if float(job.label) in self.failing:
                job.state = "failed"
                continue
            job.folder.mkdir(parents=True, exist_ok=True)
            value = quality(float(job.label))
            good = -value if self.metric == "loss" else round(value * self.steps) / self.steps
            text = rungs.with_another(job.folder, job.until, self.metric, good, -value)
            (job.folder / rungs.FILE).write_text(text)
        return jobs


def found(bench: Bench, tuning: Tuning, low: float = 1e-4, high: float = 1.0) -> Family:
    sampler = TPE(tuning, low, high, False, 1) if tuning.sampler == "tpe" else Grid(tuning, low, high, False)
    family = Family("all", sampler, bench.make, None)  # type: ignore[arg-type]
    tune([family], tuning, bench.run, lambda text: None)
    return family


@pytest.mark.parametrize(("metric", "steps"), [("accuracy", 1e9), ("loss", 1e9), ("accuracy", 1e-3)])
def test_the_better_half_goes_on(tmp_path: Path, metric: str, steps: float) -> None:
    bench = Bench(tmp_path, metric, steps=steps)  # where all accuracies are equal, losses decide
    best = found(bench, Tuning("training.learning_rate", trials=5)).best()
    assert best is not None and best.value == 0.01
    first = [label for label, until in bench.ran if until == 13]
    assert first == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert [label for label, until in bench.ran if until == 25] == ["0.001", "0.01", "0.1"]
    assert [label for label, until in bench.ran if until == 50] == ["0.001", "0.01"]


def test_what_was_finished_before_is_measured_by_its_end(tmp_path: Path) -> None:
    job = Bench(tmp_path).make([0.01])[0]
    job.until = 25
    job.folder.mkdir()
    result = {"status": "finished", "primary_metric": "accuracy", "evaluated_on": "validation"}
    metrics = {"accuracy": 0.9, "validation_accuracy": 0.9, "selection_accuracy": 0.7, "selection_loss": 0.5}
    (job.folder / "result.json").write_text(json.dumps(result | {"metrics": metrics}))
    assert standing(job) == {"metric": "accuracy", "value": 0.7, "loss": 0.5}  # never by the split that is reported
    (job.folder / "result.json").write_text(json.dumps(result | {"metrics": {"accuracy": 0.9}}))
    assert standing(job) is None


def test_the_cost_is_counted_by_rungs(tmp_path: Path) -> None:
    assert found(Bench(tmp_path), Tuning("training.learning_rate", trials=4)).spent() == 2 * 0.25 + 2 * 0.5


def test_failed_runs_are_out_and_all_may_fail(tmp_path: Path) -> None:
    tuning = Tuning("training.learning_rate", trials=5)
    best = found(Bench(tmp_path / "some", failing=(0.01, 0.1)), tuning).best()
    assert best is not None and best.value == 0.001
    assert found(Bench(tmp_path / "all", failing=(1e-4, 1e-3, 0.01, 0.1, 1.0)), tuning).best() is None


def test_optuna_asks_in_rounds_and_always_the_same(tmp_path: Path) -> None:
    tuning = Tuning("training.learning_rate", trials=12, sampler="tpe")
    families = [found(Bench(tmp_path / name), tuning) for name in ("once", "again")]
    values = [[trial.value for trial in family.trials] for family in families]
    assert values[0] == values[1] and 8 < len(values[0]) <= 12
    best = families[0].best()
    assert best is not None and quality(best.value) > 0.7
    assert len(families[0].winners) == 3


@pytest.mark.parametrize(
    ("count", "halving", "shares"),
    [(4, 2, [0.25, 0.5]), (5, 2, [0.125, 0.25, 0.5]), (2, 2, [0.5]), (9, 3, [1 / 9, 1 / 3]), (1, 2, [0.5])],
)
def test_rungs_lie_where_the_last_cut_leaves_one(count: int, halving: int, shares: list[float]) -> None:
    assert fractions(count, halving) == pytest.approx(shares)
    left = count
    for _ in shares:
        left = math.ceil(left / halving)
    assert left == 1


def test_a_grid_has_both_ends_and_equal_ratios() -> None:
    assert grid(1e-4, 1e-1, 4, False) == [1e-4, 1e-3, 1e-2, 1e-1]
    assert grid(4, 64, 5, True) == [4, 8, 16, 32, 64]
    assert grid(1, 3, 5, True) == [1, 2, 3]  # what rounds to the same is tried once
    assert grid(0, 1, 3, False) == [0, 0.5, 1]


def test_words_of_a_tuning_stand_apart() -> None:
    tuning, others = split(["method=lora", "tune=learning_rate", "tune.trials=8", "tune.range=[1e-4,1e-2]"])
    assert tuning == Tuning("training.learning_rate", 8, (1e-4, 1e-2))
    assert others == ["training.selection=best", "method=lora"]
    assert split(["tune=r", "tune.range=[4,64]"])[0] == Tuning("method.r", 4, (4.0, 64.0))
    assert split(["seed=1"]) == (None, ["seed=1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune.trials=4"], r"tune\.trials=4: says how to tune; tune=KEY"),
        (["tune=learning_rate", "training.learning_rate=1"], "is set besides"),
        (["tune=learning_rate", "training.selection=last"], "held out of train"),
        (["tune=learning_rate", "tune.trials=1"], "trials is 1: it is at least 2"),
        (["+", "method=lora", "tune=learning_rate"], "holds for the whole sweep; write it before the first +"),
        (["tune=learning_rate", "tune.range=[2,1]"], r"\[LOWEST,HIGHEST\]"),
        (["tune=learning_rate", "tune.trails=4"], "trials"),
        (["tune=learning_rate", "tune.sampler=random"], "grid"),
    ],
)
def test_what_is_no_tuning_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(words)


def test_a_key_without_a_range_asks_for_one(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line(tiny, tmp_path / "out", "method=lora", "tune=r")) == 2
    assert "tune=method.r: method=lora has no range for it; give tune.range=" in capsys.readouterr().err
    assert main(line(tiny, tmp_path / "out", "method=lora", "tune=rr", "tune.range=[1,2]")) == 2
    assert not (tmp_path / "out").exists()


def test_a_tuned_run_ends_like_one_that_never_stood_still(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("method=lora", "seed=1")
    line_of_all = line(tiny, tmp_path / "tuned", *words, "tune=learning_rate", "tune.trials=2")
    assert main([*line_of_all, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 1 and rows[0]["n"] == 1 and rows[0]["rates_tried"] == 2
    runs = {run.folder.name: run for run in collect([tmp_path / "tuned"])}
    assert sorted(run.status for run in runs.values()) == ["finished", "paused"]
    done = next(run for run in runs.values() if run.status == "finished")
    rate = done.spec["training"]["learning_rate"]
    plain = line(tiny, tmp_path / "plain", *words, f"training.learning_rate={rate}", "training.selection=best")
    assert main(plain) == 0
    for name in BYTES:
        assert (tmp_path / "plain" / name).read_bytes() == (done.folder / name).read_bytes(), name
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "tuned").rglob("*") if p.is_file()}
    assert main(line_of_all) == 0  # the same line does nothing twice
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "tuned").rglob("*") if p.is_file()} == before
