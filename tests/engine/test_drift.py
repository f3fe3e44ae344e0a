"""What a run with training.drift measures beside everything that it measures without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lrexp.engine import drift
from lrexp.engine.identify import identify
from lrexp.laws.stopping import stop_after
from lrexp.methods.catalog import families
from lrexp.models.load import TOKENIZERS
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError, Interrupted
from lrexp.tasks.sources import stdlib_text
from lrexp.train import train
from tests.conftest import session

DRIFT = "training.drift=true"
NAMES = ("drift_", "forgetting_")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "SEQUENCES", 6)


def split(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of drift, and the others."""
    found = {name: value for name, value in metrics.items() if name.startswith(NAMES)}
    return found, {name: value for name, value in metrics.items() if name not in found}


def weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def said(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_all_else_has_the_same_bytes(run: Any) -> None:
    setting = ("method=intrinsic_dimension", "training.max_steps=3")
    (plain, one), (moved, two) = run(*setting, to="plain"), run(*setting, DRIFT, to="moved")
    found, others = split(moved["metrics"])
    assert list(found) == ["drift_weights", "drift_weights_attention", "drift_weights_mlp", "drift_representation"]
    assert others == plain["metrics"] and not split(plain["metrics"])[0]
    assert weights(one).read_bytes() == weights(two).read_bytes()
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    counts = ("trainable_parameters", "total_parameters", "optimizer_state_bytes")
    assert [plain["costs"][name] for name in counts] == [moved["costs"][name] for name in counts]
    assert moved["costs"]["drift_seconds"] > 0 and "drift_seconds" not in plain["costs"]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_distance_of_an_adapter_is_that_of_its_product(precision: str, run: Any, tiny_model: Path) -> None:
    result, folder = run("method=lora", f"hardware.precision={precision}", "training.learning_rate=1e-5", DRIFT)
    kept = {name: tensor.double() for name, tensor in load_file(weights(folder)).items()}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32  # bf16 weights would round all of the change away
    base = {name: W.to(dtype) for name, W in load_file(tiny_model / "model.safetensors").items()}
    moved = [2.0 * kept[n.replace("lora_A", "lora_B")] @ A for n, A in kept.items() if n.endswith("lora_A")]
    matrices = [W for name, W in base.items() if W.ndim == 2 and not name.startswith("pooler")]
    change, size = (float(sum(t.double().square().sum() for t in ts)) for ts in (moved, matrices))
    assert len(moved) == 4 and len(matrices) < len([W for W in base.values() if W.ndim == 2])
    assert result["metrics"]["drift_weights"] == pytest.approx((change / size) ** 0.5, rel=1e-3)
    assert result["metrics"]["drift_weights_mlp"] == 0.0 < result["metrics"]["drift_representation"]


def test_stopped_and_resumed_it_is_the_same(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("method=pissa", "training.max_steps=4", DRIFT)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            run(*line, to="stopped")
    with monkeypatch.context() as patch:
        patch.setattr("lrexp.engine.drift.weight_distance", lambda *_: (_ for _ in ()).throw(Interrupted("at its end")))
        with pytest.raises(Interrupted):
            run(*line, to="stopped")
    assert run(*line, to="stopped")[0]["metrics"] == run(*line, to="whole")[0]["metrics"]


def test_a_model_that_has_not_moved(run: Any) -> None:
    found, _ = split(run("method=full", "training.max_steps=0", DRIFT)[0]["metrics"])
    assert found.pop("drift_representation") == pytest.approx(0.0, abs=1e-12)
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(("method", "measured"), [("sltrain", False), ("svd_compress", True)])
def test_a_method_is_measured_from_the_base_that_it_begins_with(method: str, measured: bool, run: Any) -> None:
    result, folder = run(f"method={method}", "training.max_steps=1", DRIFT)
    found, _ = split(result["metrics"])
    assert bool(found) == measured == ("does not start at the base" not in said(folder))
    assert not measured or found["drift_weights"] > 0.01


@pytest.fixture
def decoder(tmp_path: Path) -> list[str]:
    """Overrides of a run of a small LLaMA out of a folder, on a text of its own."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS["embedded"])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=48,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("once upon a time there was a small red cat, and it sat on a mat.\n" * 60)
    return [
        "model=decoder", f"model.path={tmp_path / 'model'}", "dataset=text", f"dataset.path={tmp_path / 'text.txt'}",
        "dataset.max_length=16", "training.max_steps=4", "training.per_device_train_batch_size=4",
        "training.learning_rate=1e-2", "hardware=cpu", "hardware.threads=1", "method=full", DRIFT,
    ]  # fmt: skip


def finished(line: list[str], folder: Path) -> tuple[dict[str, Any], Path]:
    return train(compose(line, families())[0], str(folder))


def test_a_language_model_has_a_loss_before_and_after(decoder: list[str], tmp_path: Path) -> None:
    found, _ = split(finished(decoder, tmp_path / "run")[0]["metrics"])
    before, after = found["forgetting_loss_before"], found["forgetting_loss_after"]
    assert found["forgetting_loss"] == after - before != 0.0
    assert 7 < before < 8.5 and found["drift_weights"] > 0  # log(2048) is 7.6
    assert "drift_representation" not in found


def test_a_drawn_model_has_nothing_to_forget(decoder: list[str], tmp_path: Path) -> None:
    drawn = ["model=llama_tiny", "model.config.hidden_size=16"]
    result, folder = finished([*(word for word in decoder if not word.startswith("model")), *drawn], tmp_path / "run")
    found, _ = split(result["metrics"])
    assert list(found) == ["drift_weights", "drift_weights_attention", "drift_weights_mlp"]
    assert "training.drift: weights alone are compared: the model is drawn" in said(folder)


def test_the_text_is_another_than_the_runs_own(decoder: list[str]) -> None:
    corpus = [*(word for word in decoder if not word.startswith("dataset")), "dataset=corpus"]
    assert [drift.reads_a_text(identify(compose(line, families())[0])) for line in (decoder, corpus)] == [True, False]


def test_the_text_is_fixed_and_cut_to_what_the_model_takes(tiny: list[str], tmp_path: Path) -> None:
    of = session(tiny, tmp_path, DRIFT)
    config = SimpleNamespace(max_position_embeddings=20, vocab_size=25)
    found = drift.text(of.run, config)
    assert len(found) == 6 and max(sequence["input_ids"].shape for sequence in found) == (1, 20)
    again = stdlib_text.held_out(64, 2048)
    assert again == stdlib_text.held_out(64, 2048) and len(set(again)) == 64
    texts = stdlib_text.read(of.task.data)["test"]
    assert all(any(text.startswith(start) for text in texts) for start in again)
    with pytest.raises(InputError, match="vocab_size of model=bert is 2;"):
        drift.text(of.run, SimpleNamespace(max_position_embeddings=20, vocab_size=2))


def test_a_text_that_is_not_there_ends_before_the_run(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking() -> Any:
        raise InputError("no sources")

    monkeypatch.setattr(stdlib_text, "modules", lacking)
    with pytest.raises(InputError, match="no sources"):
        run(DRIFT)
    assert not (tmp_path / "run").exists()
