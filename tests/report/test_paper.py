"""The value that a paper reports, beside runs of its experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrexp.report.collect import collect
from lrexp.report.group import group
from lrexp.report.paper import Reported, reported
from lrexp.spec import shipped
from tests.report.made_up import write_run

NAME = "lora_roberta_base_mrpc"
SETTINGS: dict[str, Any] = {
    "experiment": NAME,
    "model__name": "roberta",
    "dataset__name": "mrpc",
    **{field.key.replace(".", "__"): field.default for field in shipped.choice("experiment", NAME).fields},
}
SETTINGS.pop("seed")


def of(folder: Path, result: dict[str, Any] | None = None, **changes: Any) -> Reported | None:
    write_run(folder, result=result, **{**SETTINGS, **changes})
    return reported(group(collect([folder]))[0])


def test_the_value_and_its_place_in_the_paper(tmp_path: Path) -> None:
    source = "Hu et al. 2021, arXiv 2106.09685, table 2, row RoB base (LoRA), column MRPC"
    assert of(tmp_path) == Reported(0.897, source, ())


def test_settings_that_our_runs_do_not_keep_are_named(tmp_path: Path) -> None:
    found = of(tmp_path, training__learning_rate=1e-3, method__r=4)
    assert found is not None and found.changed == ("method.r", "training.learning_rate")


@pytest.mark.parametrize(
    "changes",
    [
        {"method__name": "pissa"},
        {"model__name": "roberta_large"},
        {"dataset__name": "rte"},
        {"experiment": None},
        {"experiment": "mine"},
        {"experiment": "embedded_lora"},
        {"result": {"primary_metric": "f1"}},
    ],
)
def test_runs_of_something_else_have_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert of(tmp_path, **changes) is None


@pytest.mark.parametrize("name", [n for n in shipped.names("experiment") if not n.startswith("embedded_")])
def test_every_shipped_experiment_is_found(tmp_path: Path, name: str) -> None:
    experiment = shipped.choice("experiment", name)
    chosen = {key.split("/")[1]: value for entry in experiment.values["defaults"] for key, value in entry.items()}
    sections = {f"{group}__name": shipped.choice(group, chosen[group]).section_name for group in ("model", "dataset")}
    metric = experiment.header[2].split()[1]
    method = {"name": shipped.choice("method", chosen["method"]).section_name}
    result = {"primary_metric": metric, f"metrics.{metric}": 0.5}
    write_run(tmp_path, experiment=name, method=method, result=result, **sections)
    found = reported(group(collect([tmp_path]))[0])
    assert found is not None and str(found.value) in experiment.header[2] and "table" in found.source
