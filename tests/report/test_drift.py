"""Drift and forgetting in tables, where some run has them."""

from __future__ import annotations

from pathlib import Path

from tests.report.made_up import write_run
from tests.report.test_row import printed as final
from tests.report.test_table import markdown, printed, rows

LOSSES = {"forgetting_loss": -0.25, "forgetting_loss_before": 3.0, "forgetting_loss_after": 2.75}


def test_a_column_for_each_that_some_run_has(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", method__r=4, accuracy=0.9)
    for seed, weights in ((1, 0.25), (2, 0.75)):
        write_run(tmp_path / f"{seed}", seed, result={"metrics.drift_weights": weights}, training__drift=True)
    write_run(tmp_path / "lm", result={f"metrics.{n}": v for n, v in LOSSES.items()}, method__r=16, accuracy=0.1)
    found = rows(tmp_path)
    assert [row["drift_weights"] for row in found] == [None, 0.5, None]
    assert [row["forgetting_loss"] for row in found] == [None, None, -0.25]
    assert all("drift_representation" not in row for row in found)
    assert printed(tmp_path, "csv").splitlines()[0].endswith("runs,drift_weights,forgetting_loss")
    cells = markdown(tmp_path)
    assert [row["weight drift"] for row in cells] == ["-", "0.5000", "-"]
    assert [row["forgetting"] for row in cells] == ["-", "-", "-0.2500"]
    assert "output drift" not in cells[0] and list(cells[0])[-2:] == ["status", "marks"]


def test_tables_without_it_have_no_column(tmp_path: Path) -> None:
    write_run(tmp_path / "plain")
    assert "drift_weights" not in rows(tmp_path)[0] and "weight drift" not in markdown(tmp_path)[0]


def test_the_line_of_a_run() -> None:
    moved = {"drift_weights": 0.5, "drift_weights_attention": 0.75, "drift_weights_mlp": 0.0}
    lines = final(metrics={"accuracy": 0.7, **moved, "drift_representation": 0.125})
    assert "drift                 weights 0.5000 (attention 0.7500, mlp 0.0000), outputs" in lines
    assert not any(line.startswith("other metrics") for line in lines)
    lines = final(metrics={"accuracy": 0.7, "drift_weights": 0.5, **LOSSES})
    assert "drift                 weights 0.5000, forgetting -0.2500 (loss 3.0000 before," in lines
    assert not any(line.startswith("drift") for line in final())


def test_a_spec_from_before_a_switch_is_pooled_with_one_that_has_it_off(tmp_path: Path) -> None:
    write_run(tmp_path / "older", 1)
    write_run(tmp_path / "newer", 2, training__drift=False, hardware__processes=1)
    write_run(tmp_path / "other", 3, training__drift=True)
    assert sorted(row["seeds"] for row in rows(tmp_path)) == [[1, 2], [3]]
