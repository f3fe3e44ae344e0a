"""Models whose weights are drawn: sizes of the papers, roles, the same numbers from the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lrexp.models import build, load
from lrexp.models.model_spec import ModelSpec, Outputs, read
from lrexp.models.roles import select
from lrexp.spec import choices
from lrexp.spec.errors import InputError

PARAMETERS = {  # of GaLore's and SLTrain's tables, in millions
    "llama_60m": 58.07,
    "llama_130m": 134.11,
    "llama_350m": 367.97,
    "llama_1b": 1339.08,
}
LM = Outputs("causal_lm")
PLACE = load.Place(None, load.TOKENIZERS["embedded"])


def spec(name: str) -> ModelSpec:
    choice = choices.choice("model", name)
    sizes = {field.key.removeprefix("config."): field.default for field in choice.fields if "config." in field.key}
    plain = {field.key: field.default for field in choice.fields if "." not in field.key}
    return read({"name": name, "config": sizes, **plain})


def tiny() -> ModelSpec:
    found = spec("llama_tiny")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    return replace(found, config=found.config | sizes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_tables(name: str) -> None:
    with torch.device("meta"):
        model = build.empty(spec(name), PLACE, LM, torch.bfloat16)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == PARAMETERS[name]


def test_the_seed_draws_the_weights() -> None:
    def weights(seed: int) -> nn.Module:
        return build.base(tiny(), PLACE, LM, seed)

    one, same, other = weights(1).state_dict(), weights(1).state_dict(), weights(2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert abs(float(one["model.embed_tokens.weight"].std()) - 0.02) < 1e-3


@pytest.mark.parametrize(
    ("role", "inside"),
    [
        ("q", ["self_attn.q_proj"]),
        ("attention", [f"self_attn.{x}_proj" for x in "qkvo"]),
        ("mlp", ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
        ("all-linear", [*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))]),
    ],
)
def test_roles(role: str, inside: list[str]) -> None:
    model = build.base(tiny(), PLACE, LM, 0)
    expected = [f"model.layers.{i}.{name}" for i in range(2) for name in inside]
    assert sorted(select(model, role, ())) == sorted(expected)


def test_the_fingerprint_is_of_sizes_and_tokenizer() -> None:
    found = tiny()
    wider = replace(found, config=found.config | {"intermediate_size": 32})
    one, same, other = (load.fingerprint(s, PLACE) for s in (found, replace(found, name="x"), wider))
    assert one == same != other
    assert load.fingerprint(found, load.Place(None, None)) != one


def test_a_sentencepiece_file_is_in_the_fingerprint(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "special_tokens_map.json"):
        (tmp_path / name).write_text(name)
    loaded, drawn = load.Place(tmp_path, tmp_path), load.Place(None, tmp_path)
    before = [load.fingerprint(tiny(), place) for place in (loaded, drawn)]
    assert before[0].startswith("d23b20bf6c")  # without such a file it is what it has always been
    found = [before]
    for text in ("one", "two"):
        (tmp_path / "tokenizer.model").write_text(text)
        found.append([load.fingerprint(tiny(), place) for place in (loaded, drawn)])
    assert all(len(set(prints)) == 3 for prints in zip(*found, strict=True))


def test_a_model_and_a_task_that_do_not_match_are_refused() -> None:
    with pytest.raises(InputError, match=re.escape("a decoder takes causal_lm")):
        build.refuse_other_kind(tiny(), "classification")


def test_a_wrong_architecture_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match="model=llama_tiny: "):
        build.empty(replace(tiny(), architecture="lama"), PLACE, LM, torch.float32)
    with pytest.raises(InputError, match="model=llama_tiny: "):
        build.empty(replace(tiny(), config={"hidden_size": 10, "num_attention_heads": 3}), PLACE, LM, torch.float32)
