"""lrexp export: adapters that PEFT loads on the original base, merged folders that transformers loads; equal logits."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lrexp.cli import main
from lrexp.commands.eval import find
from lrexp.commands.eval import trained as reloaded
from lrexp.engine.peft_export import other_change
from lrexp.linalg.random import ambient, generator
from tests.conftest import sentences

PATTERNS = "method.rank_pattern={q: 3, layer.1.attention.self.value: 5}"
PISSA = ("method=pissa", "method.r=4")


def inputs(model: Path) -> dict[str, Tensor]:
    texts = [row["sentence"] for row in sentences(12, 500)]
    return dict(AutoTokenizer.from_pretrained(model)(texts, padding=True, return_tensors="pt"))


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(**batch).logits.float()


def trained(folder: Path, batch: dict[str, Tensor]) -> Tensor:
    """Logits of the run's own model, its weights in float32."""
    return logits(reloaded(find(folder, []))[1].float(), batch)


def in_peft(model: Path, place: Path) -> nn.Module:
    from peft import PeftModel

    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2, dtype=torch.float32)
    return PeftModel.from_pretrained(base, place)


def exported(folder: Path, to: str, out: Path) -> dict[str, Any]:
    assert main(["export", str(folder), "--to", to, "--out", str(out)]) == 0
    return json.loads((out / "lrexp_export.json").read_text())


@pytest.mark.parametrize(
    "setting",
    [
        ("method=lora",),
        ("method=lora", "method.target_modules=all-linear", "method.use_rslora=true", "method.lora_dropout=0.1"),
        ("method=lora", PATTERNS, "method.alpha_pattern={layer.1.attention.self.value: 7.5}"),
        ("method=lora", "method.target_modules=[q,word_embeddings]", "method.use_rslora=true"),
        PISSA,
        (*PISSA, "method.svd=randomized", "method.lora_alpha=6"),
        (*PISSA, "method.use_rslora=true", "method.target_modules=all-linear"),
        (*PISSA, PATTERNS, "method.alpha_pattern={q: 7.5}", "method.use_rslora=true"),
        (*PISSA, "method.target_modules=[word_embeddings]"),
        ("method=svfit",),
        ("method=loldu", "method.target_modules=[q, v, word_embeddings]"),
        ("method=salt",),
        ("method=sorsa", "method.lora_alpha=6", "method.target_modules=all-linear"),
        ("method=adalora", "method.use_rslora=true", "method.target_modules=[q,word_embeddings]"),
        ("method=dora", "method.target_modules=[q,word_embeddings]"),
        ("method=olora", "method.target_modules=all-linear"),
    ],
    ids=[
        "lora", "lora-rslora-all", "lora-patterns", "lora-embedding", "pissa", "pissa-randomized", "pissa-rslora-all",
        "pissa-patterns", "pissa-embedding", "svfit", "loldu-embedding", "salt", "sorsa-all",
        "adalora-rslora-embedding", "dora-embedding", "olora-all",
    ],
)  # fmt: skip
def test_peft_gives_the_run_s_logits(setting: tuple[str, ...], run: Any, tiny_model: Path, tmp_path: Path) -> None:
    _, folder = run(*setting, "training.learning_rate=3e-2")
    about = exported(folder, "peft", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "lrexp_export.json",
    ]  # fmt: skip
    batch = inputs(tiny_model)
    expected, found = trained(folder, batch), logits(in_peft(tiny_model, tmp_path / "out"), batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert about["largest_logit_difference"] < 1e-5
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    assert (logits(base, batch) - expected).abs().max() > 1e-2  # there was something to export


@pytest.fixture(scope="module")
def tiny_roberta(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of 2 layers with the tiny tokenizer: no pooler, a classifier of two linear layers."""
    from transformers import RobertaConfig, RobertaModel

    place = tmp_path_factory.mktemp("tiny_roberta")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=40, type_vocab_size=2, pad_token_id=0,
    )  # fmt: skip
    with ambient(0):
        RobertaModel(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_the_head_of_roberta_goes_along(run: Any, tiny_roberta: Path, tmp_path: Path) -> None:
    _, folder = run("model=roberta", f"model.path={tiny_roberta}", *PISSA, "training.learning_rate=3e-2")
    for kind in ("peft", "merged"):
        exported(folder, kind, tmp_path / kind)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["modules_to_save"], config["base_model_name_or_path"]) == (["classifier"], str(tiny_roberta))
    batch = inputs(tiny_roberta)
    expected = trained(folder, batch)
    torch.testing.assert_close(logits(in_peft(tiny_roberta, tmp_path / "peft"), batch), expected, rtol=0, atol=1e-5)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, batch), expected, rtol=0, atol=1e-5)


def test_statistics_that_have_moved_are_no_adapter() -> None:
    base = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    moved = copy.deepcopy(base).requires_grad_(False)
    assert other_change(moved, base, ("0",)) is None
    moved(torch.randn(8, 2, generator=generator(0, "x")))
    assert other_change(moved, base, ("0", "1")) is None
    assert other_change(moved, base, ("0",)) == "1.running_mean"


def test_ranks_and_alphas_of_the_difference(run: Any, tmp_path: Path) -> None:
    _, folder = run(*PISSA, "method.rank_pattern={q: 3}", "method.use_rslora=true", "method.lora_alpha=6")
    exported(folder, "peft", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {config["r"], *config["rank_pattern"].values()} == {6, 8}
    assert config["lora_alpha"] == pytest.approx(6 * 2**0.5)
    assert config["modules_to_save"] == ["bert.pooler", "classifier"]


@pytest.mark.parametrize("precision", ["float32", "bf16", "bf16_autocast", "float64"])
@pytest.mark.parametrize("method", ["lora", "pissa", "full"])
def test_merged_loads_in_transformers(
    method: str, precision: str, run: Any, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder = run(f"method={method}", f"hardware.precision={precision}")
    about = exported(folder, "merged", tmp_path / "out")
    assert about["metrics"] == result["metrics"]
    assert about["largest_logit_difference"] < 1e-5
    assert about["largest_logit_difference_to_run"] < (0.1 if precision.startswith("bf16") else 1e-5)
    assert ("in bf16" in capsys.readouterr().out) == precision.startswith("bf16")
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == (torch.float64 if precision == "float64" else torch.float32)
    assert model.config.id2label == {0: "0", 1: "1"}
    batch = inputs(tmp_path / "out")
    torch.testing.assert_close(logits(model, batch), trained(folder, batch), rtol=0, atol=1e-5)


def test_a_bf16_adapter_loads_in_peft(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    _, folder = run(*PISSA, "hardware.precision=bf16")
    about = exported(folder, "peft", tmp_path / "out")
    batch = inputs(tiny_model)
    found = logits(in_peft(tiny_model, tmp_path / "out"), batch)
    torch.testing.assert_close(found, trained(folder, batch), rtol=0, atol=0.05)  # the run's base is rounded to bf16
    assert 0 < about["largest_logit_difference"] < 0.05


def test_labels_have_their_names(run: Any, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    names = ("no cat", "a cat")
    lines = [json.dumps({"sentence": row["sentence"], "label": names[row["label"]]}) for row in sentences(60)]
    data.write_text("\n".join(lines))
    _, folder = run(f"dataset.path={data}")
    about = exported(folder, "merged", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "a cat", "1": "no cat"}
    assert (about["labels"], about["num_labels"]) == (["a cat", "no cat"], 2)


def test_a_regression_exports(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(
        "\n".join(json.dumps({"sentence": r["sentence"], "label": len(r["sentence"]) / 10}) for r in sentences(60))
    )
    _, folder = run(f"dataset.path={data}", "dataset.task=regression")
    exported(folder, "merged", tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    batch = inputs(tiny_model)
    torch.testing.assert_close(logits(model, batch), trained(folder, batch), rtol=0, atol=1e-5)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    return err


def test_what_cannot_be_exported_leaves_nothing(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, full = run("method=full", to="full")
    _, lora = run("method=lora", to="lora")
    out = tmp_path / "deep" / "out"
    capsys.readouterr()
    assert "method=full leaves no adapter" in refused(capsys, str(full), "--to", "peft", "--out", str(out))
    assert "only model.path, model.tokenizer_path and dataset.path" in refused(
        capsys, str(lora), "--to", "peft", "--out", str(out), "method.r=2"
    )
    assert "invalid choice: 'onnx'" in refused(capsys, str(lora), "--to", "onnx", "--out", str(out))
    assert "no run is there" in refused(capsys, str(tmp_path), "--to", "peft", "--out", str(out))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("x")
    assert "files in it already" in refused(capsys, str(lora), "--to", "peft", "--out", str(tmp_path / "taken"))
    assert "this is no folder" in refused(capsys, str(lora), "--to", "peft", "--out", str(tmp_path / "taken" / "mine"))
    assert not out.parent.exists()
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["mine"]


def test_a_failure_in_writing_leaves_nothing(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = run()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("lrexp.engine.peft_export.save_file", full_disk)
    out = tmp_path / "deep" / "er" / "out"
    capsys.readouterr()
    assert "No space left" in refused(capsys, str(folder), "--to", "peft", "--out", str(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_an_empty_folder_is_taken(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run()
    (tmp_path / "out").mkdir()
    exported(folder, "peft", tmp_path / "out")
    assert "largest logit difference" in capsys.readouterr().out
