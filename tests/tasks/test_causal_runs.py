"""Whole runs of a small LLaMA: drawn or from a folder, trained, stopped and resumed, exported, evaluated again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lrexp.cli import main
from lrexp.laws.stopping import stop_after
from lrexp.methods.catalog import families
from lrexp.models import build, load
from lrexp.models.model_spec import Outputs, read
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError, Interrupted
from lrexp.train import train

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = "def double(x):\n    return x + x\n\nclass Café:\n    pass\n"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Overrides of a run of six steps that takes a second."""
    data = tmp_path / "data"
    data.mkdir()
    for name, times in (("train", 60), ("validation", 12)):
        (data / f"{name}.txt").write_text(TEXT * times, encoding="utf-8")
    sizes = [f"model.config.{key}={value}" for key, value in SIZES.items()]
    return [
        "model=llama_tiny", *sizes, "dataset=text", f"dataset.path={data}", "dataset.max_length=16",
        "training.max_steps=6", "training.per_device_train_batch_size=4", "training.save_steps=2",
        "training.logging_steps=1", "training.learning_rate=1e-2", "hardware=cpu", "hardware.threads=1",
    ]  # fmt: skip


def run(words: list[str], folder: Path) -> tuple[dict[str, Any], Path]:
    return train(compose(words, families())[0], str(folder))


def test_a_drawn_model_learns_and_repeats(words: list[str], tmp_path: Path) -> None:
    (one, first), (two, second) = (run([*words, "method=full"], tmp_path / name) for name in ("one", "two"))
    assert one["metrics"] == two["metrics"] and one["primary_metric"] == "perplexity"
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    losses = [json.loads(line)["train/loss"] for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.5  # log(2048) = 7.6 before the first step
    other, _ = run([*words, "method=full", "seed=1"], tmp_path / "other")
    assert other["metrics"] != one["metrics"]


@pytest.mark.parametrize("setting", ["packing=true", "packing=false"])
def test_stopped_and_resumed_equals_undisturbed(
    setting: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words, "method=full", f"dataset.{setting}"]
    if setting == "packing=false":
        rows = [json.dumps({"text": TEXT[: 5 + i % 40]}) for i in range(40)]
        for name in ("train", "validation"):
            (tmp_path / "data" / f"{name}.txt").unlink()
            (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(rows))
    whole, undisturbed = run(line, tmp_path / "whole")
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        run(line, tmp_path / "stopped")
    result, resumed = run(line, tmp_path / "stopped")
    assert result["costs"]["resumed_from"] == [3] and result["metrics"] == whole["metrics"]
    assert result["costs"]["tokens_seen"] == whole["costs"]["tokens_seen"]
    assert (resumed / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small LLaMA and its tokenizer as save_pretrained writes them."""
    keys = {"vocab_size": 2048, "max_position_embeddings": 64, **SIZES}
    spec = read({"name": "x", "kind": "decoder", "architecture": "llama", "config": keys, "tokenizer": "embedded"})
    place = load.place(spec)
    build.base(spec, place, Outputs("causal_lm"), 0).save_pretrained(tmp_path / "model")  # type: ignore[operator]
    load.tokenizer(place).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_adapters_on_a_folder_export_and_evaluate_again(
    method: str, words: list[str], saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    words = [word for word in words if "config" not in word]
    result, folder = run([*words, f"method={method}", f"model.path={saved}"], tmp_path / "run")
    for kind in ("peft", "merged"):
        assert main(["export", str(folder), "--to", kind, "--out", str(tmp_path / kind)]) == 0
        capsys.readouterr()
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    ids = torch.randint(0, 2048, (2, 12), generator=torch.Generator().manual_seed(0))
    base = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, tmp_path / "peft").eval()(ids).logits
        torch.testing.assert_close(merged(ids).logits, adapted, rtol=0, atol=1e-5)
    assert main(["eval", str(folder), "--format", "json"]) == 0
    again = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert again == {name: result["metrics"][name] for name in again}


def test_an_adapter_on_a_drawn_base_belongs_to_its_seed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*words, "method=lora"]
    _, one = run(line, tmp_path / "one")
    with pytest.raises(
        InputError, match=r"init_from=.*one: its base was drawn from seed 42\. To start from its outcome"
    ):
        run([*line, f"init_from={one}", "seed=1"], tmp_path / "two")
    assert not (tmp_path / "two").exists()
    _, two = run([*line, f"init_from={one}"], tmp_path / "two")
    log = (two / "log.txt").read_text()
    assert f"starts from the weights of {one}\n" in log and "head" not in log
    _, full = run([*words, "method=full"], tmp_path / "full")
    run([*words, "method=full", f"init_from={full}", "seed=1"], tmp_path / "other")  # its whole model goes along
    capsys.readouterr()
    assert main(["export", str(one), "--to", "peft", "--out", str(tmp_path / "out")]) == 2
    assert "the base was drawn from the seed: take --to merged" in capsys.readouterr().err


def test_a_tokenizer_that_has_moved_is_found_and_changes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "tokenizer", tmp_path / "moved"
    shutil.copytree(load.TOKENIZERS["embedded"], old)
    result, folder = run([*words, "method=lora", f"model.tokenizer_path={old}"], tmp_path / "run")
    old.rename(new)
    again, _ = run([*words, "method=lora", f"model.tokenizer_path={new}"], tmp_path / "again")
    assert again["spec_hash"] == result["spec_hash"]
    there = f"model.tokenizer_path={new}"
    assert main(["eval", str(folder), there]) == 0
    assert main(["export", str(folder), there, "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "merged"), "--format", "json"]) == 0  # the export has its own tokenizer
    found = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert found["loss"] == pytest.approx(result["metrics"]["loss"], abs=1e-5)


def test_a_model_and_data_that_do_not_match_are_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not go together"):
        run([*(word for word in words if not word.startswith("model")), "model=embedded"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.config.vocab_size=300", "vocab_size is 300"),
        ("model.config.max_position_embeddings=8", "takes at most 8 tokens"),
        ("model.tokenizer=/tmp/tok", "a folder goes into model.tokenizer_path"),
    ],
)
def test_a_model_that_cannot_take_the_data_is_refused_before_the_run(
    word: str, message: str, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run([*words, "method=full", word], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_document_does_not_stop_a_run(words: list[str], tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / "data" / f"{name}.txt").unlink()
        rows = [json.dumps({"text": text}) for text in ["", "", "", TEXT] * 6]
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(rows))
    line = [word for word in words if "train_batch_size" not in word]
    line += ["method=full", "dataset.packing=false", "training.per_device_train_batch_size=1"]
    result, folder = run(line, tmp_path / "run")
    assert result["status"] == "finished" and (folder / "model.safetensors").is_file()


def test_adapters_on_drawn_weights_are_marked_and_stay_finite(words: list[str], saved: Path, tmp_path: Path) -> None:
    words = [word for word in words if "learning_rate" not in word and "max_steps" not in word]
    model = [word for word in words if word.startswith("model")]
    data = [word for word in words if word not in model]
    result, folder = run([*model, *data, "method=lora", "training.max_steps=20"], tmp_path / "drawn")
    assert result["marks"] == ["adapters on drawn weights"]
    losses = [json.loads(line)["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(losses) < 9  # log(2048) = 7.6
    data.append("training.max_steps=1")
    for method in ("full", "intrinsic_dimension"):  # the latter's paper moves drawn weights
        assert run([*model, *data, f"method={method}"], tmp_path / method)[0]["marks"] == []
    loaded = ["model=decoder", f"model.path={saved}", *data, "method=lora"]
    assert run(loaded, tmp_path / "loaded")[0]["marks"] == []


def test_training_from_scratch_has_a_rate_of_its_own() -> None:
    for name, rate in (("llama_tiny", 3e-3), ("llama_60m", 1e-3), ("llama_1b", 1e-3)):
        assert compose(["method=full", f"model={name}"], families())[0].training.learning_rate == pytest.approx(rate)


def test_an_evaluation_on_longer_sequences_than_the_model_takes_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run([*words, "method=full", "model.config.max_position_embeddings=32"], tmp_path / "run")
    assert main(["eval", str(folder), "dataset.max_length=40"]) == 2
    assert "dataset.max_length is 40, but model=llama_tiny takes at most 32 tokens" in capsys.readouterr().err


def test_a_budget_of_tokens_is_seen_and_no_more(words: list[str], tmp_path: Path) -> None:
    line = [word for word in words if "max_steps" not in word] + ["method=full", "training.max_tokens=330"]
    result, _ = run(line, tmp_path / "run")
    assert 330 - 4 * 16 < result["costs"]["tokens_seen"] <= 330  # one step more would be too many
    with pytest.raises(InputError, match="max_tokens is set with max_steps"):
        run([*line, "training.max_steps=3"], tmp_path / "both")
    with pytest.raises(InputError, match=r"set dataset\.packing=true"):
        run([*line, "dataset.packing=false"], tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
