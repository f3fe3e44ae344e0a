"""Verdicts: by the interval of differences paired by seed, in the metric's own sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrexp.report.collect import Run
from lrexp.report.verdict import CONTRADICTED, NOT_SEEN, SEEN, is_lower_better, judge, overall
from lrexp.spec.claim import Check
from lrexp.spec.errors import InputError

NOISE = (0.01, -0.02, 0.0, 0.015, -0.005)


def runs(
    values: list[float], metric: str = "accuracy", cost: float = 1.0, folder: Path = Path(), first: int = 1
) -> list[Run]:
    return [
        Run(
            folder, "finished", {}, {"seed": seed, "metrics": {metric: value}, "costs": {"optimizer_state_bytes": cost}}
        )
        for seed, value in enumerate(values, start=first)
    ]


def verdict(relation: str, shift: float, margin: float = 0.0, metric: str = "accuracy") -> str:
    base = [0.8, 0.7, 0.9, 0.6, 0.75]  # seeds differ far more than the sides do: pairing is what shows it
    sides = {
        "a": runs([v + shift + n for v, n in zip(base, NOISE, strict=True)], metric),
        "b": runs(base, metric),
    }
    return judge(Check(metric, "a", "b", relation, margin), sides).verdict  # type: ignore[arg-type]


def test_better_needs_the_whole_interval_beyond_the_margin() -> None:
    assert verdict("better", 0.05) == SEEN
    assert verdict("better", 0.005) == NOT_SEEN
    assert verdict("better", -0.05) == CONTRADICTED
    assert verdict("better", 0.05, margin=0.04) == NOT_SEEN
    assert verdict("better", -0.05, metric="loss") == SEEN  # lower is better
    assert verdict("better", 0.05, metric="bits_per_byte") == CONTRADICTED


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("accuracy", False),
        ("validation_loss", True),
        ("curve.train/loss", True),
        ("curve.validation/accuracy", False),
        ("costs.step_seconds", True),
        ("drift_weights", True),
        ("forgetting_loss", True),
    ],
)
def test_which_way_is_better(metric: str, lower: bool) -> None:
    assert is_lower_better(metric) is lower


def test_equal_needs_the_whole_interval_within_the_margin() -> None:
    assert verdict("equal", 0.0, margin=0.02) == SEEN
    assert verdict("equal", 0.0, margin=0.01) == NOT_SEEN  # the interval is wider
    assert verdict("equal", 0.1, margin=0.02) == CONTRADICTED
    assert verdict("equal", -0.1, margin=0.02) == CONTRADICTED


def test_less_is_a_ratio() -> None:
    sides = {"a": runs([0.0] * 3, cost=60), "b": runs([0.0] * 3, cost=100)}
    for margin, wanted in ((0.7, SEEN), (0.6, SEEN), (0.5, CONTRADICTED)):
        found = judge(Check("costs.optimizer_state_bytes", "a", "b", "less", margin), sides)
        assert (found.verdict, found.difference) == (wanted, pytest.approx(0.6))


def test_only_seeds_of_both_sides_are_paired() -> None:
    sides = {"a": runs([0.9, 0.8, 0.7]), "b": runs([0.5, 0.4, 0.3], first=2)}
    found = judge(Check("accuracy", "a", "b", "better"), sides)
    assert found.pairs == 2 and found.difference == pytest.approx(0.3)
    with pytest.raises(InputError, match="1 seeds of both a and b"):
        judge(Check("accuracy", "a", "b", "better"), {"a": runs([0.9, 0.8]), "b": runs([0.9, 0.8], first=2)})


def test_a_curve_is_the_mean_of_what_was_recorded(tmp_path: Path) -> None:
    sides: dict[str, list[Run]] = {}
    for side, losses in (("a", (3.0, 1.0)), ("b", (3.0, 2.0))):
        (tmp_path / side).mkdir()
        lines = [{"step": i, "train/loss": loss} for i, loss in enumerate(losses)] + [{"step": 3, "test/loss": 9.0}]
        (tmp_path / side / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        sides[side] = runs([0.1, 0.2, 0.3], folder=tmp_path / side)
    found = judge(Check("curve.train/loss", "a", "b", "better"), sides)
    assert (found.first, found.second, found.difference, found.verdict) == (2.0, 2.5, 0.5, SEEN)


def test_one_contradiction_is_one_of_the_whole() -> None:
    sides = {"a": runs([0.9, 0.81, 0.7], cost=60), "b": runs([0.8, 0.7, 0.6], cost=100)}
    better = judge(Check("accuracy", "a", "b", "better"), sides)
    state = judge(Check("costs.optimizer_state_bytes", "a", "b", "less", 0.5), sides)
    unclear = judge(Check("accuracy", "a", "b", "equal", 0.101), sides)
    assert (better.verdict, unclear.verdict) == (SEEN, NOT_SEEN)
    assert overall([better]) == SEEN
    assert overall([better, unclear]) == NOT_SEEN
    assert overall([better, unclear, state]) == CONTRADICTED
