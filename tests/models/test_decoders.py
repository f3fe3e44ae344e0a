"""Every shipped causal language model of the hub on a tiny model of the same class: roles, adapters, answers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from lrexp.cli import main
from lrexp.methods.catalog import families
from lrexp.models import build, load
from lrexp.models.model_spec import ModelSpec, Outputs, read
from lrexp.models.roles import selection
from lrexp.spec import choices
from lrexp.spec.compose import compose
from lrexp.train import train
from tests import stand_ins
from tests.tasks.conftest import write
from tests.tasks.test_instruction import sums

NAMES = ["gpt2", "llama2_7b"]
LAYERS = {
    "gpt2": ("transformer.h", {
        "q": ["attn.c_attn"], "v": ["attn.c_attn"], "attention": ["attn.c_attn", "attn.c_proj"],
        "o": ["attn.c_proj"], "mlp": ["mlp.c_fc", "mlp.c_proj"],
        "all-linear": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    }),
    "llama2_7b": ("model.layers", {
        "q": ["self_attn.q_proj"], "v": ["self_attn.v_proj"], "attention": [f"self_attn.{x}_proj" for x in "qkvo"],
        "o": ["self_attn.o_proj"], "mlp": ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
        "all-linear": [
            *(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down")),
        ],
    }),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: stand_ins.save_decoder(name, tmp_path_factory.mktemp(name)) for name in NAMES}


def spec(name: str) -> ModelSpec:
    choice = choices.choice("model", name)
    return read({"name": name} | {field.key: field.default for field in choice.fields})


def loaded(name: str, places: dict[str, Path]) -> nn.Module:
    found = replace(spec(name), path=str(places[name]))
    return build.base(found, load.place(found), Outputs("causal_lm"), 0)


def test_these_are_all() -> None:
    hub = [c.name for c in choices.choices("model") if c.default("kind") == "decoder" and c.field("hub")]
    assert [name for name in hub if choices.choice("model", name).default("hub")] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_where_a_model_comes_from(name: str) -> None:
    found = spec(name)
    assert found.path is None and found.architecture is None and found.head == ()
    assert re.fullmatch(r"[\w-]+/[\w.-]+", found.hub or "")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["q", "v", "o", "attention", "mlp", "all-linear"])
def test_roles_name_the_layers(role: str, name: str, places: dict[str, Path]) -> None:
    prefix, inside = LAYERS[name]
    found = selection(loaded(name, places), role, ())
    assert sorted(found) == sorted(f"{prefix}.{i}.{layer}" for i in range(2) for layer in inside[role])
    if name == "gpt2" and role in ("q", "v"):
        assert set(found.values()) == {tuple(part == role for part in "qkv")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_an_adapter_learns_answers_and_is_merged(
    method: str, name: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data" / "train.jsonl", sums(24))
    write(tmp_path / "data" / "test.jsonl", sums(5, 90))
    words = [
        f"method={method}", "method.r=2", "method.target_modules=[q,v,mlp]", f"model={name}",
        f"model.path={places[name]}", "dataset=gsm8k", f"dataset.path={tmp_path / 'data'}", "dataset.max_length=64",
        "dataset.prompt={question}",
        "dataset.max_new_tokens=4", "training.max_steps=3", "training.per_device_train_batch_size=4", "hardware=cpu",
        "hardware.threads=1", "training.logging_steps=1",
    ]  # fmt: skip
    result, folder = train(compose(words, families())[0], str(tmp_path / "run"))
    assert result["status"] == "finished" and result["primary_metric"] == "exact_match"
    assert result["costs"]["trainable_parameters"] < result["costs"]["total_parameters"] / 5
    assert len(pq.read_table(folder / "predictions.parquet")["generated"]) == 5
    assert main(["export", str(folder), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    merged = replace(spec(name), path=str(tmp_path / "merged"))
    one, other = loaded(name, places), build.base(merged, load.place(merged), Outputs("causal_lm"), 0)
    moved = [n for n, p in one.named_parameters() if not torch.equal(p, other.get_parameter(n))]
    assert moved and all(".h." in n or ".layers." in n for n in moved)
