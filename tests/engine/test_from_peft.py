"""A run starts from an adapter in PEFT's format, ends as another, and refuses what would be another function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lrexp.cli import main
from lrexp.spec.errors import InputError
from tests.methods.test_laws import weights

WORDS = ("method.r=3", "method.lora_alpha=12", "method.target_modules=[q,up]")


def exported(run_folder: Path, place: Path) -> Path:
    assert main(["export", str(run_folder), "--to", "peft", "--out", str(place)]) == 0
    return place


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_what_was_exported_comes_back_to_the_bit(method: str, run: Any, tmp_path: Path) -> None:
    _, one = run(f"method={method}", *WORDS, to="one")
    adapter = exported(one, tmp_path / "adapter")
    line = (f"method={method}", *WORDS, f"init_from={adapter}", "seed=9")
    result, two = run(*line, "training.max_steps=0", to="two")
    assert weights(two) == weights(one)
    assert any("an adapter in PEFT's format" in mark for mark in result["marks"])
    _, three = run(*line, to="three")
    assert weights(three) != weights(one)
    exported(three, tmp_path / "again")
    assert (
        load_file(tmp_path / "again" / "adapter_model.safetensors").keys()
        == load_file(adapter / "adapter_model.safetensors").keys()
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_that_peft_made(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    config = LoraConfig(
        r=3, lora_alpha=12, target_modules=["query"], rank_pattern={"layer.0.attention.self.query": 2},
        alpha_pattern={"layer.0.attention.self.query": 4}, init_lora_weights=False, modules_to_save=["classifier"],
        task_type="SEQ_CLS",
    )  # fmt: skip
    theirs = get_peft_model(base, config)
    theirs.save_pretrained(tmp_path / "adapter")
    patterns = (
        "method.rank_pattern={layer.0.attention.self.query:2}",
        "method.alpha_pattern={layer.0.attention.self.query:4}",
    )
    words = (
        "method=lora",
        "method.r=3",
        "method.lora_alpha=12",
        "method.target_modules=[q]",
        "model.head=[classifier]",
    )
    _, one = run(*words, *patterns, f"init_from={tmp_path / 'adapter'}", "training.max_steps=0", to="one")
    ours = load_file(one / "adapter.safetensors")
    for name, tensor in theirs.state_dict().items():
        if "lora_" in name:
            plain = name.removeprefix("base_model.model.").replace(".default.weight", "")
            assert torch.equal(ours[plain], tensor), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=pissa",), "is a LoRA on the original base: take method=lora or method=lora_plus"),
        (("method=dora",), "is a LoRA on the original base"),
        (("method.r=2",), "the adapter's rank at bert.encoder.layer.0"),
        (("method.lora_alpha=6",), "is 4, here 2: method.lora_alpha=12"),
        (("method.use_rslora=true",), "method.lora_alpha=12"),
        (("method.target_modules=[q]",), "the adapter alone adapts bert.encoder.layer.0.intermediate.dense"),
    ],
)
def test_another_function_is_refused(words: tuple[str, ...], said: str, run: Any, tmp_path: Path) -> None:
    _, one = run("method=lora", *WORDS, to="one")
    adapter = exported(one, tmp_path / "adapter")
    line = {word.partition("=")[0]: word for word in ("method=lora", *WORDS, *words)}
    with pytest.raises(InputError) as error:
        run(*line.values(), f"init_from={adapter}", to="two")
    assert said in str(error.value) and not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "VERA"}, "peft_type is VERA: LORA, with or without use_dora, and ADALORA are taken"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is pissa: it belongs to a changed base"),
        ({"bias": "all"}, "bias is all"),
    ],
)
def test_what_is_no_plain_lora_is_refused(change: dict[str, Any], said: str, run: Any, tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8} | change))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(8, 4)}, place / "adapter_model.safetensors")
    with pytest.raises(InputError, match=said):
        run("method=lora", f"init_from={place}", to="one")


def test_pickles_and_damaged_files_are_refused(run: Any, tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    (place / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match="is a pickle, which can run code"):
        run("method=lora", f"init_from={place}", to="one")
    (place / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="damaged or cut short"):
        run("method=lora", f"init_from={place}", to="one")
    shutil.copy(place / "adapter_model.bin", place / "adapter_config.json")
    with pytest.raises(InputError, match="it is no JSON"):
        run("method=lora", f"init_from={place}", to="one")
