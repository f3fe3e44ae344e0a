"""lrexp eval: a run's own metrics to the bit, other splits and sets, merged exports; nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lrexp.cli import main
from tests.conftest import sentences


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["eval", *arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["eval", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    return err


def values(found: list[dict[str, Any]], split: str) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in found if row["split"] == split}


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    places = [folder, *folder.rglob("*")]
    return {str(p): (os.stat(p).st_mtime_ns, os.stat(p).st_size) for p in places}


@pytest.mark.parametrize(
    "setting",
    [
        ("method=lora",),
        ("method=pissa", "method.svd=randomized"),
        ("method=full",),
        ("method=pissa", "hardware.precision=bf16"),
        ("method=lora", "hardware.precision=bf16_autocast", "training.selection=best", "training.eval_steps=2"),
    ],
    ids=["lora", "pissa", "full", "bf16", "autocast-best"],
)
def test_a_run_gives_its_own_metrics_again(
    setting: tuple[str, ...], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder = run(*setting)
    before = contents(folder)
    found = rows(capsys, str(folder))
    assert contents(folder) == before
    errors = {r["metric"]: r["standard_error"] for r in found if r["split"] == "validation"}
    for name, value in values(found, "validation").items():
        assert value == result["metrics"][name]
        assert errors[name] == result["metrics"].get(f"{name}_standard_error")
    assert {"accuracy", "loss"} <= values(found, "validation").keys()
    for name, value in values(found, "selection").items():
        assert value == result["metrics"][f"selection_{name}"]


def test_another_split_has_its_own_rows(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run()
    found = rows(capsys, str(folder), "--split", "train")
    assert {(row["split"], row["n"]) for row in found} == {("train", 48)}
    assert "--split: unknown split. Did you mean 'train'?" in refused(capsys, str(folder), "--split", "trian")


def test_another_data_set_is_evaluated_if_its_labels_fit(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run()
    other = tmp_path / "other"
    other.mkdir()
    for name, start in (("train", 0), ("test", 300)):
        lines = [json.dumps({"text": r["sentence"], "label": r["label"]}) for r in sentences(30, start)]
        (other / f"{name}.jsonl").write_text("\n".join(lines))
    words = ["dataset=local", f"dataset.path={other}", "dataset.text_columns=[text]", "dataset.metrics=[f1]"]
    found = rows(capsys, str(folder), *words, "training.per_device_eval_batch_size=4", "dataset.max_length=16")
    assert {(row["split"], row["n"]) for row in found} == {("test", 30), ("validation", 3)}
    assert "f1" in values(found, "test") and "accuracy" not in values(found, "test")
    three = [json.dumps({"text": r["sentence"], "label": i % 3}) for i, r in enumerate(sentences(30))]
    (other / "train.jsonl").write_text("\n".join(three))
    assert "2 outputs, this data set needs 3" in refused(capsys, str(folder), *words, "dataset.max_length=16")


def test_hardware_may_change_and_training_may_not(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run("hardware.precision=bf16")
    wide = rows(capsys, str(folder), "hardware=cpu", "hardware.threads=1")  # float32 is the choice's default
    assert values(wide, "validation")["loss"] != values(rows(capsys, str(folder)), "validation")["loss"]
    assert "seed=2: an evaluation takes" in refused(capsys, str(folder), "seed=2")
    assert "method.r=4: an evaluation takes" in refused(capsys, str(folder), "method.r=4")
    assert "not an override" in refused(capsys, str(folder), "local")


def test_data_that_have_changed_are_said(
    run: Any, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in tiny_data.iterdir():
        (data / file.name).write_text(file.read_text())
    _, folder = run(f"dataset.path={data}")
    lines = (data / "validation.jsonl").read_text().splitlines()
    (data / "validation.jsonl").write_text("\n".join(lines[:10]))
    capsys.readouterr()
    assert main(["eval", str(folder)]) == 0
    assert capsys.readouterr().err == "lrexp eval: data differs\n"


def test_a_missing_tensor_is_one_line(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run("method=pissa")
    tensors = load_file(folder / "adapter.safetensors")
    tensors.pop("classifier.weight")
    save_file(tensors, folder / "adapter.safetensors")
    assert "adapter.safetensors: missing: classifier.weight; it is not" in refused(capsys, str(folder))
    assert "no such folder" in refused(capsys, str(folder / "none"))


@pytest.mark.parametrize("method", ["lora", "pissa", "full"])
def test_a_merged_export_evaluates_as_its_run(
    method: str, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder = run(f"method={method}")
    merged = tmp_path / "merged"
    assert main(["export", str(folder), "--to", "merged", "--out", str(merged)]) == 0
    found = values(rows(capsys, str(merged)), "validation")
    assert found["accuracy"] == result["metrics"]["accuracy"]
    assert found["loss"] == pytest.approx(result["metrics"]["loss"], abs=1e-5)
    tensors = load_file(merged / "model.safetensors")
    tensors.pop("classifier.weight")
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})
    assert "1 weights of the model are not in its files" in refused(capsys, str(merged))


def test_a_merged_export_needs_no_run_that_its_own_started_from(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, one = run("method=lora", to="one")
    result, two = run("method=lora", f"init_from={one}", "seed=9", to="two")
    merged = tmp_path / "merged"
    assert main(["export", str(two), "--to", "merged", "--out", str(merged)]) == 0
    assert json.loads((merged / "lrexp_export.json").read_text())["marks"] == result["marks"] != []
    shutil.rmtree(one)
    assert values(rows(capsys, str(merged)), "validation")["accuracy"] == result["metrics"]["accuracy"]


def test_an_adapter_export_is_no_whole_model(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run()
    assert main(["export", str(folder), "--to", "peft", "--out", str(tmp_path / "peft")]) == 0
    assert "holds no whole model" in refused(capsys, str(tmp_path / "peft"))
    (tmp_path / "peft" / "lrexp_export.json").write_text("{}")
    assert "not readable as the record" in refused(capsys, str(tmp_path / "peft"))
