"""Runs on images from the command line: trained, evaluated, exported, fetched, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lrexp.cli import main
from tests.commands.hub_cache import use
from tests.conftest import merged
from tests.tasks.pictures import images, write_npz
from tests.tasks.test_images import fill_cache

RUN = [
    "dataset=images", "training.max_steps=12", "training.learning_rate=1e-2", "training.per_device_train_batch_size=8",
    "hardware=cpu", "hardware.threads=1",
]  # fmt: skip
SMALL = {
    "mlp": ["model.config.hidden_sizes=[16,12]"],
    "lenet": ["model.config.conv_sizes=[4,8]", "model.config.hidden_sizes=[16]"],
    "vit_tiny": ["model.config.hidden_size=16", "model.config.num_hidden_layers=1", "model.config.patch_size=2"],
}
TARGETS = {"mlp": "[hidden1]", "lenet": "[conv2,hidden1]", "vit_tiny": "[q,v]"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data"), train=images(64), validation=images(16), test=images(40))


def line(model: str, data: Path, to: Path, *more: str) -> list[str]:
    own = [f"model={model}", *SMALL[model], *RUN, f"dataset.path={data}", f"output_dir={to}"]
    return ["train", *merged(own, more)]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("method", ["full", "lora", "pissa"])
def test_every_model_is_trained_evaluated_and_exported(
    model: str, method: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = [] if method == "full" else ["method.r=2", f"method.target_modules={TARGETS[model]}"]
    assert main(line(model, data, tmp_path / "run", f"method={method}", *setting)) == 0
    metrics = result(tmp_path / "run")["metrics"]
    assert 0 <= metrics["validation_accuracy"] <= 1 and metrics["accuracy_standard_error"] > 0
    assert main(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(tmp_path / "out")]) == 0
    about = json.loads((tmp_path / "out" / "lrexp_export.json").read_text())
    assert about["largest_logit_difference"] < 1e-4
    capsys.readouterr()
    for folder in ("run", "out"):
        assert main(["eval", str(tmp_path / folder), "--format", "json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        found = {row["metric"]: row["value"] for row in rows if row["split"] == "test"}
        assert found["loss"] == pytest.approx(metrics["loss"], rel=0 if folder == "run" else 1e-5)


def test_the_same_seed_gives_the_same_numbers_and_training_helps(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(line("mlp", data, tmp_path / name, "method=full", "training.max_steps=60")) == 0
    one, two = (result(tmp_path / name) for name in ("one", "two"))
    assert one["metrics"] == two["metrics"] and one["metrics"]["accuracy"] > 0.9
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_an_exported_model_is_trained_on_and_takes_no_other_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line("mlp", data, tmp_path / "run", "method=full")) == 0
    assert main(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(tmp_path / "out")]) == 0
    again = ["method=lora", "method.target_modules=all-linear", f"model.path={tmp_path / 'out'}"]
    assert main(line("mlp", data, tmp_path / "lora", *again)) == 0
    assert main(["export", str(tmp_path / "lora"), "--to", "peft", "--out", str(tmp_path / "peft")]) == 0
    capsys.readouterr()
    assert main(line("mlp", data, tmp_path / "no", *again, "dataset.image_size=9")) == 2
    assert "takes images of 8 x 8 pixels, these data have 9 x 9" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("mlp", ["training.gradient_checkpointing=true"], "transformers has none for MLP"),
        ("lenet", ["training.gradient_checkpointing=true"], "transformers has none for LeNet"),
        ("mlp", ["method=lora"], "'q' matches no layer of MLP; its layers are named classifier, hidden1, hidden2"),
        ("vit_tiny", ["model.config.patch_size=3"], "not cut into whole patches of 3 x 3"),
        ("mlp", ["dataset=mrpc", "dataset.path=x"], "a vision model takes image_classification"),
        ("mlp", ["training.selection=best", "training.selection_metric=f1"], "this data set has accuracy, loss"),
    ],
)
def test_what_does_not_go_is_said_in_one_line(
    model: str, words: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line(model, data, tmp_path / "run", *merged(["method=full"], tuple(words)))) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_gradient_checkpointing_of_a_vit_changes_nothing(data: Path, tmp_path: Path) -> None:
    for name, value in (("kept", "false"), ("again", "true")):
        switch = f"training.gradient_checkpointing={value}"
        assert main(line("vit_tiny", data, tmp_path / name, "method=full", "training.max_steps=3", switch)) == 0
    assert result(tmp_path / "kept")["metrics"] == result(tmp_path / "again")["metrics"]


@pytest.fixture
def forgotten() -> Iterator[None]:
    from lrexp.tasks.sources.hub import hub_tables

    hub_tables.cache_clear()
    yield
    hub_tables.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_what_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL")
    use(monkeypatch, tmp_path / "hub", tmp_path / "datasets")
    fill_cache(tmp_path / "datasets")
    words = ["fetch", "method=full", "model=mlp", "dataset=mnist,digits", "--format", "json"]
    assert main(words) == 0
    rows = {row["what"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert rows == {
        "model=mlp": "needs no download", "dataset=mnist": "cached", "rows of mnist": "read",
        "dataset=digits": "needs no download", "rows of digits": "read",
    }  # fmt: skip
    assert main(["fetch", "model=lenet", "dataset=cifar10"]) == 2
    assert "uoft-cs/cifar10 plain_text is not in the cache" in capsys.readouterr().err
