from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lrexp.report import pareto
from lrexp.report.collect import collect
from lrexp.report.group import group
from lrexp.report.labels import Label
from lrexp.report.pareto import Point, front
from lrexp.report.place import APART, side_by_side
from lrexp.report.quality import Quality
from lrexp.spec.errors import InputError
from tests.report.made_up import write_run, write_spec


def write(place: Path, method: str, parameters: int, values: list[float], **changes: object) -> None:
    for seed, value in enumerate(values, 1):
        costs = {"costs.trainable_parameters": parameters, "costs.peak_memory_bytes": 10**9 + 100 * parameters}
        folder = place / f"{method}-{parameters}-{seed}"
        write_run(folder, seed, value, {**costs, "metrics.loss": 1 - value}, method__name=method, **changes)


def draw(place: Path, cost: str = "trainable_parameters", metric: str | None = None) -> Figure:
    return pareto.draw(group(collect([place])), cost, metric).figure


def drawn(figure: Figure, label: str) -> list[tuple[float, float]]:
    found = [line for line in figure.axes[0].get_lines() if line.get_label() == label]
    return [(float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True)]


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(Label(f"m{i}", ""), f"m{i}", x, Quality(3, y, None)) for i, (x, y) in enumerate(pairs)]


def test_the_front_is_what_nothing_beats() -> None:
    found = points((3, 0.7), (1, 0.5), (2, 0.4), (3, 0.9), (4, 0.9))
    assert [(one.cost, one.quality.mean) for one in front(found, lower=False)] == [(1, 0.5), (3, 0.9)]
    assert [(one.cost, one.quality.mean) for one in front(found, lower=True)] == [(1, 0.5), (2, 0.4)]


def test_points_bars_and_the_front_as_steps(tmp_path: Path) -> None:
    write(tmp_path, "full", 2_000_000, [0.7, 0.8, 0.9])
    write(tmp_path, "lora", 40_000, [0.84, 0.85, 0.86])
    write(tmp_path, "said", 1_000, [0.6])
    figure = draw(tmp_path)
    (ax,) = figure.axes
    assert drawn(figure, "full") == [(2_000_000, pytest.approx(0.8))]
    assert drawn(figure, "lora") == [(40_000, pytest.approx(0.85))]
    assert drawn(figure, pareto.FRONT)[:2] == [(1000, 0.6), (40_000, pytest.approx(0.85))]
    (steps,) = [line for line in ax.get_lines() if line.get_label() == pareto.FRONT]
    assert steps.get_drawstyle() == "steps-post" and steps.get_xdata()[-1] == ax.get_xlim()[1]
    bars = {found.get_label() for found in ax.containers}
    assert bars == {"bar of full", "bar of lora"}  # one seed has no interval
    faces = {line.get_label(): line.get_markerfacecolor() for line in ax.get_lines()}
    assert faces["said"] == "white" != faces["lora"]
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "trainable parameters"
    assert ax.get_ylabel() == "accuracy (test)"


def test_memory_is_in_gigabytes_on_a_plain_axis_and_loss_is_better_low(tmp_path: Path) -> None:
    write(tmp_path, "full", 2_000_000, [0.7, 0.8, 0.9])
    write(tmp_path, "lora", 40_000, [0.84, 0.85, 0.86])
    figure = draw(tmp_path, "peak_memory_bytes", "loss")
    (ax,) = figure.axes
    assert ax.get_xlabel() == "peak memory, GB" and ax.get_xscale() == "linear"
    assert ax.get_ylabel() == "loss (test)\nlower is better"
    assert drawn(figure, pareto.FRONT)[0] == (pytest.approx(1.004), pytest.approx(0.15))
    assert draw(tmp_path, metric="validation_accuracy").axes[0].get_ylabel() == "accuracy (validation)"


def test_what_differs_within_a_method_stands_beside_its_points(tmp_path: Path) -> None:
    for r, value in ((4, 0.7), (64, 0.8)):
        write(tmp_path, "lora", 5000 * r, [value, value + 0.01, value + 0.02], method__r=r)
    figure = draw(tmp_path)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["r=4", "r=64"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["lora", pareto.FRONT]


def test_long_details_stand_in_the_legend(tmp_path: Path) -> None:
    for rate in (0.0012345, 0.0023456):
        write(tmp_path / f"{rate}", "lora", 5000, [0.7], training__learning_rate=rate)
    figure = draw(tmp_path)
    assert not figure.axes[0].texts
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries[:2] == ["lora, learning_rate=0.0012345", "lora, learning_rate=0.0023456"]


def test_points_of_one_cost_stand_side_by_side(tmp_path: Path) -> None:
    assert side_by_side([1.0, 5.0, 11.0], logarithmic=False) == [1.0, 5.0, 11.0]
    moved = side_by_side([11.0, 1.0, 11.0], logarithmic=False)
    assert moved == pytest.approx([11 - 5 * APART, 1, 11 + 5 * APART])
    assert side_by_side([10.0, 10.0], logarithmic=True)[0] < 10
    write(tmp_path, "lora", 40_000, [0.8])
    write(tmp_path, "pissa", 40_000, [0.9])
    drawing = pareto.draw(group(collect([tmp_path])), "trainable_parameters")
    assert drawing.notes == ["points of one cost stand side by side"]
    (low, _), (high, _) = drawn(drawing.figure, "lora") + drawn(drawing.figure, "pissa")
    assert 38_000 < low < 40_000 < high < 42_000


def test_panels_by_dataset_and_metric(tmp_path: Path) -> None:
    write(tmp_path / "a", "lora", 1000, [0.8])
    write(tmp_path / "b", "lora", 1000, [0.8], dataset__name="mrpc")
    write(tmp_path / "c", "lora", 1000, [0.8], provenance__data_fingerprint="0ther0ther")
    figure = draw(tmp_path)
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == ["docmatch, embedded, data d4a7a0", "mrpc, embedded", "docmatch, embedded, data 0ther0"]


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    write_spec(tmp_path / "0", method__name="full")
    with pytest.raises(InputError, match="no run has finished; --kind curves shows"):
        draw(tmp_path)
    write_run(tmp_path / "1", result={"costs.step_seconds": None})
    with pytest.raises(InputError, match="no finished run has step_seconds beside the metric"):
        draw(tmp_path, "step_seconds")
    with pytest.raises(InputError, match=r"--metric acuracy: unknown metric.*accuracy"):
        draw(tmp_path, metric="acuracy")
    assert pareto.draw(group(collect([tmp_path])), "train_seconds").notes == ["left out, no run has the figures: full"]
