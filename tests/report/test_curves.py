import json
import math
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from lrexp.report import curves
from lrexp.report.collect import collect
from lrexp.report.group import group
from lrexp.report.history import history
from lrexp.spec.errors import InputError
from tests.report.made_up import write_failed, write_progress, write_run, write_spec

STEPS = range(10, 201, 10)


def log(folder: Path, level: float, steps: range = STEPS, evaluate: int = 50) -> None:
    lines = [{"step": step, "train/loss": level + 1 / step, "train/learning_rate": 0.1} for step in steps]
    found = {"validation/accuracy_standard_error": 0.01, "validation/accuracy": level, "validation/loss": 1 - level}
    lines += [{"step": step, **found} for step in steps if step % evaluate == 0]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def draw(place: Path, metric: str | None = None) -> Figure:
    return curves.draw(group(collect([place])), metric).figure


def lines(ax: Axes, label: str) -> list[tuple[list[float], list[float]]]:
    return [
        (list(map(float, x)), list(map(float, y)))
        for line in ax.get_lines()
        if line.get_label() == label
        for x, y in [line.get_data()]
    ]


def bands(ax: Axes) -> list[PolyCollection]:
    return [found for found in ax.collections if isinstance(found, PolyCollection)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def test_three_seeds_make_a_mean_with_a_band_of_one_deviation(tmp_path: Path) -> None:
    for seed, level in ((1, 0.5), (2, 0.6), (3, 0.7)):
        log(write_run(tmp_path / f"{seed}", seed), level)
    figure = draw(tmp_path)
    loss, accuracy = figure.axes
    ((steps, means),) = lines(loss, "lora")
    assert steps == list(STEPS)
    assert means == pytest.approx([0.6 + 1 / step for step in STEPS])
    (band,) = bands(loss)
    edge = band.get_paths()[0].vertices
    at_end = [y for x, y in edge if x == 200]
    assert (min(at_end), max(at_end)) == pytest.approx((0.505, 0.705))
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("training loss", "accuracy (validation)")
    assert loss.get_title("left") == "docmatch, embedded" and accuracy.get_xlabel() == "step"
    assert legend(figure) == ["lora", "mean ± standard deviation over 3 seeds"]


def test_fewer_seeds_and_unfinished_runs_are_thin_lines(tmp_path: Path) -> None:
    for seed in (1, 2):
        log(write_run(tmp_path / f"{seed}", seed), 0.5)
    write_progress(write_spec(tmp_path / "3", 3), 50, torn='{"step": 6')
    figure = draw(tmp_path)
    assert [x for x, _ in lines(figure.axes[0], "lora")] == [list(STEPS), list(STEPS), [10, 20, 30, 40, 50]]
    assert not bands(figure.axes[0])
    assert legend(figure)[1:] == ["one run (fewer than three seeds, or not finished)"]


def test_a_failed_run_is_no_part_of_the_mean_and_its_end_is_marked(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        log(write_run(tmp_path / f"{seed}", seed), 0.5)
    log(write_failed(tmp_path / "4", 4), 9.0, range(10, 41, 10))
    figure = draw(tmp_path)
    ax = figure.axes[0]
    assert [len(x) for x, _ in lines(ax, "lora")] == [len(STEPS), 4]
    assert lines(ax, "end of lora") == [([40.0], [9.025])]
    assert legend(figure)[-1] == "failed"


def test_an_unfinished_repeat_of_a_finished_seed_is_not_drawn(tmp_path: Path) -> None:
    log(write_run(tmp_path / "a", 1), 0.5)
    write_progress(write_spec(tmp_path / "b", 1), 50)
    assert len(lines(draw(tmp_path).axes[0], "lora")) == 1


def test_each_dataset_has_a_column_and_a_label_one_style(tmp_path: Path) -> None:
    for dataset in ("docmatch", "mrpc"):
        for method in ("lora", "full") if dataset == "docmatch" else ("lora",):
            log(write_run(tmp_path / dataset / method, method__name=method, dataset__name=dataset), 0.5)
    figure = draw(tmp_path)
    assert [ax.get_title("left") for ax in figure.axes] == ["docmatch, embedded", "mrpc, embedded", "", ""]
    styles = {
        (line.get_label(), line.get_color(), str(line.get_linestyle()), line.get_marker())
        for ax in figure.axes
        for line in ax.get_lines()
    }
    assert len(styles) == 2
    assert [ax.get_ylabel() for ax in figure.axes] == ["training loss", "", "accuracy (validation)", ""]


def test_an_evaluation_at_the_end_alone_is_no_curve(tmp_path: Path) -> None:
    log(write_run(tmp_path / "1"), 0.5, evaluate=200)
    assert len(draw(tmp_path).axes) == 1


def test_one_name_of_the_record(tmp_path: Path) -> None:
    log(write_run(tmp_path / "1"), 0.4)
    (ax,) = draw(tmp_path, "validation/loss").axes
    assert ax.get_ylabel() == "loss (validation)"
    assert lines(ax, "lora") == [([50.0, 100.0, 150.0, 200.0], [0.6] * 4)]
    with pytest.raises(InputError, match=r"--metric validation/los: unknown name.*validation/loss"):
        draw(tmp_path, "validation/los")


def test_a_loss_that_explodes_makes_the_axis_logarithmic(tmp_path: Path) -> None:
    log(write_run(tmp_path / "1"), 0.5)
    assert draw(tmp_path).axes[0].get_yscale() == "linear"
    log(write_failed(tmp_path / "2", 2), 500.0)
    assert draw(tmp_path).axes[0].get_yscale() == "log"


def test_nothing_logged_is_said(tmp_path: Path) -> None:
    write_spec(tmp_path / "1")
    with pytest.raises(InputError, match="no run has logged a step yet"):
        draw(tmp_path)
    log(write_run(tmp_path / "2", method__name="full"), 0.5)
    assert curves.draw(group(collect([tmp_path]))).notes == ["left out, no run has the figures: lora"]


def test_null_is_nan_and_cut_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "a": null}\n[]\n{"a": 1}\n{"step": 2, "a": 3}\n{"step": 3, "a"'
    )
    found = history(tmp_path)["a"]
    assert math.isnan(found.pop(1)) and found == {2: 3.0}
    assert history(tmp_path / "nowhere") == {}
