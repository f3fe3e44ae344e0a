import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lrexp.report import rates
from lrexp.report.collect import collect
from lrexp.report.group import group
from lrexp.spec.errors import InputError
from tests.report.made_up import write_failed, write_run, write_spec


def write(place: Path, values: dict[float, float | str], method: str = "lora", metric: str = "accuracy") -> None:
    """Runs of one seed; a text is the error of one that failed."""
    for rate, value in values.items():
        changes = {"training__learning_rate": rate, "method__name": method}
        if isinstance(value, str):
            failed = write_failed(place / f"{method}-{rate}", error=value, **changes)
            result = json.loads((failed / "result.json").read_text())
            (failed / "result.json").write_text(json.dumps(result | {"primary_metric": metric}))
        else:
            found = {f"metrics.{metric}": value, "primary_metric": metric}
            write_run(place / f"{method}-{rate}", result=found, **changes)


def draw(place: Path, metric: str | None = None) -> Figure:
    return rates.draw(group(collect([place])), metric).figure


def drawn(figure: Figure, label: str) -> list[tuple[float, float]]:
    found = [line for line in figure.axes[0].get_lines() if line.get_label() == label]
    return [(float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True)]


def test_a_line_for_each_method_over_the_rates(tmp_path: Path) -> None:
    write(tmp_path, {3e-3: 0.8, 1e-3: 0.7, 1e-2: 0.6})
    write(tmp_path, {1e-3: 0.75, 1e-2: 0.5}, "full")
    figure = draw(tmp_path)
    (ax,) = figure.axes
    assert drawn(figure, "lora") == [(1e-3, 0.7), (3e-3, 0.8), (1e-2, 0.6)]
    assert drawn(figure, "full") == [(1e-3, 0.75), (1e-2, 0.5)]
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "learning rate", "accuracy (test)")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "full",
        "lora",
        "mean of fewer than three seeds",
    ]


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        (["the loss is nan at step 4. Try less"], "diverged"),
        (["the gradient norm is inf at step 4"], "diverged"),
        (["out of memory"], "failed"),
        (["the loss is nan at step 4", "out of memory"], "diverged\nor failed"),
    ],
)
def test_failed_runs_stand_in_a_strip_at_the_worse_edge(tmp_path: Path, errors: list[str], word: str) -> None:
    failed = {10.0**i: error for i, error in enumerate(errors)}
    write(tmp_path, {1e-3: 0.7, 1e-2: 0.8, **failed})
    figure = draw(tmp_path)
    (ax,) = figure.axes
    marked = drawn(figure, "failed runs of lora")
    assert [x for x, _ in marked] == sorted(failed) and all(0 < y < 0.1 for _, y in marked)  # of the panel's height
    assert ax.get_ylim()[0] < 0.69
    ticks = dict(zip([text.get_text() for text in ax.get_yticklabels()], ax.get_yticks(), strict=True))
    assert ax.get_ylim()[0] < ticks[word] < 0.7 and all(v >= 0.69 for text, v in ticks.items() if text != word)


def test_of_a_loss_the_upper_edge_is_the_worse(tmp_path: Path) -> None:
    write(tmp_path, {1e-3: 30.0, 1e-2: 500.0, 1e-1: "the loss is nan at step 4"}, metric="perplexity")
    figure = draw(tmp_path)
    (ax,) = figure.axes
    assert ax.get_yscale() == "log" and ax.get_ylim()[1] > 550
    assert drawn(figure, "failed runs of lora")[0][1] > 0.9
    assert "diverged" in [text.get_text() for text in ax.get_yticklabels()]


def test_other_keys_make_lines_of_their_own(tmp_path: Path) -> None:
    for r in (4, 8):
        for rate in (1e-3, 1e-2):
            write_run(tmp_path / f"{r}-{rate}", method__r=r, training__learning_rate=rate)
    labels = {line.get_label() for line in draw(tmp_path).axes[0].get_lines()}
    assert {"lora, r=4", "lora, r=8"} <= labels


def test_one_rate_is_no_sensitivity(tmp_path: Path) -> None:
    write(tmp_path, {1e-3: 0.7})
    write_spec(tmp_path / "waiting", training__learning_rate=0.1)
    with pytest.raises(InputError, match=r"needs finished runs that differ in training\.learning_rate"):
        draw(tmp_path)
    write(tmp_path, {1e-2: 0.8})
    found = rates.draw(group(collect([tmp_path])))
    assert found.notes == ["left out, no run has the figures: lora, learning_rate=0.1"]


def test_a_dataset_where_all_runs_failed_has_no_panel(tmp_path: Path) -> None:
    write(tmp_path, {1e-3: 0.7, 1e-2: 0.8})
    write_failed(tmp_path / "bad", dataset__name="mrpc")
    found = rates.draw(group(collect([tmp_path])))
    assert [ax.get_title("left") for ax in found.figure.axes] == ["docmatch, embedded"]
    assert found.notes == ["left out, no run has the figures: mrpc/embedded: lora, learning_rate=0.0025"]
