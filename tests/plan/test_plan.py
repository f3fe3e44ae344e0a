"""A plan needs neither data nor weights, agrees with what methods count on paper, and refuses what cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrexp.methods.catalog import ENTRIES, families
from lrexp.methods.pretraining.memory import Sizes, estimate
from lrexp.plan.plan import Plan, plan
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError
from tests.commands.hub_cache import put_model, use

LLAMA = (
    "model=llama_60m", "model.config.num_hidden_layers=2", "hardware=cpu", "hardware.precision=bf16",
    "training.per_device_train_batch_size=2", "dataset.max_length=16",
)  # fmt: skip
SIZES = Sizes(d=512, f=1376, layers=2, vocab=32000, rank=128, sp_ratio=0.03)
IMAGES = ("method=full", "model=mlp", "dataset=images", "hardware=cpu")


def planned(*words: str) -> Plan:
    return plan(compose(list(words), families())[0])


@pytest.mark.parametrize(
    ("counted", "words"),
    [
        ("full", ("method=full",)),
        ("galore", ("method=galore", "method.rank=128")),
        ("sltrain", ("method=sltrain", "method.rank=128")),
        ("lowrank", ("method=lowrank_pretrain", "method.rank=128")),
    ],
)
def test_the_optimizer_holds_what_the_papers_count(counted: str, words: tuple[str, ...]) -> None:
    found = planned(*LLAMA, *words)
    linears, others = 14, 7  # an embedding, an output layer, five norms
    tensors = others + linears * {"full": 1, "galore": 1, "sltrain": 3, "lowrank": 2}[counted]
    steps = 4 * tensors  # of torch's AdamW, a float32 for each
    assert found.memory["optimizer"] == estimate(counted, SIZES).optimizer + steps
    if counted == "full":
        assert found.memory["weights"] == pytest.approx(estimate(counted, SIZES).weights, abs=1000)  # and frequencies
        assert 2 * found.trainable_parameters == estimate(counted, SIZES).weights


def test_adapters_train_two_factors_a_layer() -> None:
    lora, pissa = (planned(*LLAMA, f"method={name}", "method.r=4") for name in ("lora", "pissa"))
    factors = 2 * 2 * 4 * (512 + 512)  # q and v of two blocks
    for found in (lora, pissa):
        assert found.trainable_parameters == factors
        assert found.memory["optimizer"] == 2 * 2 * factors + 4 * 8
    assert pissa.memory["weights"] - lora.memory["weights"] == 2 * factors  # A0 and B0


@pytest.mark.parametrize("method", list(ENTRIES))
def test_every_method_is_planned(method: str) -> None:
    found = planned("model=embedded", "dataset=mrpc", f"method={method}", "hardware=cpu")  # nothing of MRPC is here
    parts = [found.memory[part] for part in ("weights", "gradients", "optimizer", "method_state", "activations")]
    assert found.peak == sum(part for part in parts if part is not None) > 0
    assert found.trainable_parameters > 0 and found.flops_per_step > 0


def test_operations_are_counted_over_all_micro_batches() -> None:
    one = planned("method=full", "model=mlp", "hardware=cpu")
    three = planned("method=full", "model=mlp", "hardware=cpu", "training.gradient_accumulation_steps=3")
    sizes = [64 * 200, 200 * 200, 200 * 10]
    assert one.flops_per_step == 32 * 2 * (3 * sum(sizes) - sizes[0])  # nobody asks for the gradient of the pixels
    assert three.flops_per_step == 3 * one.flops_per_step


def test_switches_take_less_memory() -> None:
    words = ("method=full", "model=llama_tiny", "model.config.num_hidden_layers=6", "hardware=cpu")
    usual = planned(*words)
    assert planned(*words, "training.gradient_checkpointing=true").peak < usual.peak
    small = (*words, "training.per_device_train_batch_size=1", "training.max_grad_norm=null", "dataset.max_length=8")
    assert planned(*small, "training.per_layer_updates=true").peak < 0.9 * planned(*small).peak


def test_a_run_without_steps_holds_its_weights() -> None:
    found = planned("training.max_steps=0", "hardware=cpu")
    assert found.peak == found.memory["weights"] and found.flops_per_step == 0


def test_cuda_is_planned_where_there_is_none() -> None:
    found, cpu = (planned("method=full", f"hardware={device}") for device in ("cuda", "cpu"))
    assert found.assumed["device"] == "cuda" and found.peak > cpu.peak  # its attention forms the products


def test_the_size_of_images_is_in_a_config_or_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set dataset\.image_size"):
        planned(*IMAGES)
    assert planned(*IMAGES, "dataset.image_size=28").assumed["image_shape"] == [1, 28, 28]
    config = {"model_type": "mlp", "hidden_sizes": [20], "num_channels": 1, "image_size": 12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert planned(*IMAGES, f"model.path={tmp_path}").assumed["image_shape"] == [1, 12, 12]


def test_of_a_model_its_config_is_enough(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    words = ("model=bert", "dataset=mrpc", "dataset.max_length=32", "hardware=cpu")
    assert planned(*words, f"model.path={tmp_path}").memory["weights"] == pytest.approx(4 * 6000, rel=0.5)
    with pytest.raises(InputError, match=r"model\.path=.*no config\.json"):
        planned(*words, f"model.path={tmp_path / 'nothing'}")


def test_a_config_is_found_in_the_cache_or_asked_for(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=roberta", "dataset=mrpc", "dataset.max_length=32", "hardware=cpu")
    use(monkeypatch, tmp_path / "models", tmp_path / "data")
    with pytest.raises(InputError, match=r"the config of FacebookAI/roberta-base.*lrexp fetch model=roberta"):
        planned(*words)
    place = put_model(tmp_path / "models", "FacebookAI/roberta-base", tiny_model)
    (place / "model.safetensors").unlink()
    assert planned(*words).memory["weights"] == pytest.approx(4 * 6000, rel=0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=full", "model=embedded", "dataset=corpus"), "do not go together"),
        (("method.target_modules=[nothing]",), "nothing"),
        (("dataset.max_length=4096",), "takes at most 128 tokens"),
    ],
)
def test_what_cannot_run_is_not_planned(words: tuple[str, ...], said: Any) -> None:
    with pytest.raises(InputError, match=said):
        planned(*words)
