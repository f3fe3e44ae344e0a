"""Models whose weights are drawn: sizes of the papers, roles, the same numbers from the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrexp.models import architecture, build, load
from lrexp.models.model_spec import ModelSpec, Outputs, read
from lrexp.models.roles import select
from lrexp.spec import choices
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError

PARAMETERS = {  # of GaLore's and SLTrain's tables, in millions
    "llama_60m": 58.07,
    "llama_130m": 134.11,
    "llama_350m": 367.97,
    "llama_1b": 1339.08,
    "llama_7b": 6738.42,
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
    with pytest.raises(InputError, match=re.escape("an encoder takes classification")):
        build.refuse_other_kind(replace(tiny(), kind="encoder"), "causal_lm")


def test_a_wrong_architecture_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match=r"model=llama_tiny: .*'lama' is not one of .* did you mean 'llama'\?"):
        build.empty(replace(tiny(), architecture="lama"), PLACE, LM, torch.float32)
    with pytest.raises(InputError, match="bert is of kind encoder"):
        build.empty(replace(tiny(), architecture="bert"), PLACE, LM, torch.float32)
    with pytest.raises(InputError, match="model=llama_tiny: "):
        build.empty(replace(tiny(), config={"hidden_size": 10, "num_attention_heads": 3}), PLACE, LM, torch.float32)


PLAIN = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
SHARED = {**PLAIN, "num_key_value_heads": 1}
SIZES = {  # of the smallest model of each architecture; those of images are in test_vision
    "llama": SHARED,
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "mistral": SHARED,
    "qwen2": SHARED,
    "gpt_neox": PLAIN,
    "bert": PLAIN,
    "roberta": PLAIN,
}


def test_no_architecture_is_left_out() -> None:
    assert list(SIZES) == [name for name, kind in architecture.ARCHITECTURES.items() if kind != "vision"]


@pytest.mark.parametrize("name", SIZES)
def test_each_architecture_of_texts_is_built_from_its_own_sizes(name: str) -> None:
    kind = architecture.ARCHITECTURES[name]
    sizes = {"vocab_size": 2048, **SIZES[name]}
    found = read({"name": "mine", "kind": kind, "architecture": name, "config": sizes, "tokenizer": "embedded"})
    outputs = LM if kind == "decoder" else Outputs("classification", 2)
    model = build.base(found, load.place(found), outputs, 0)
    assert {key: getattr(model.config, key) for key in sizes} == sizes


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hiden_size", 16, "model.config.hiden_size: unknown key of llama. Did you mean 'hidden_size'?"),
        ("attn_implementation", "x/kernel", "unknown key"),
        ("experts_implementation", "x/kernel", "unknown key"),
        ("_attn_implementation", "x/kernel", "unknown key"),
        ("quantization_config", {"a": 1}, "unknown key"),
        ("auto_map", {"AutoConfig": "x--y.Z"}, "unknown key"),
        ("trust_remote_code", True, "unknown key"),
        ("dtype", "bfloat16", "unknown key"),
        ("rope_parameters", {"rope_type": "x"}, "takes a number"),
        ("hidden_act", ["silu"], "takes a number"),
        ("hidden_size", "wide", "hidden_size"),
    ],
)
def test_a_config_takes_sizes_and_nothing_else(key: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as error:
        build.empty(replace(tiny(), config=tiny().config | {key: value}), PLACE, LM, torch.float32)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_number_that_yaml_reads_as_text_is_one() -> None:
    model = build.empty(replace(tiny(), config=tiny().config | {"rms_norm_eps": "1e-5"}), PLACE, LM, torch.float32)
    assert model.config.rms_norm_eps == 1e-5


def test_weights_are_drawn_only_where_none_can_be_loaded() -> None:
    assert tiny().is_drawn
    for loaded in ({"hub": "owner/name"}, {"path": "/x"}):
        assert not replace(tiny(), **loaded).is_drawn  # type: ignore[arg-type]


def test_special_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    def saved(sizes: dict[str, int], place: load.Place) -> Any:
        build.base(replace(tiny(), config=tiny().config | sizes), place, LM, 0).save_pretrained(tmp_path)  # type: ignore[operator]
        return AutoModelForCausalLM.from_pretrained(tmp_path).generation_config

    found = saved({}, PLACE)
    assert (found.bos_token_id, found.eos_token_id) == (0, 0)
    assert found.pad_token_id is None  # padding it is too: its embedding would not be trained
    assert saved({"eos_token_id": 5}, PLACE).eos_token_id == 5
    tokenizer = load.tokenizer(PLACE)
    tokenizer.add_special_tokens({"pad_token": "!"})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    padding = tokenizer.pad_token_id
    assert saved({}, load.Place(None, tmp_path / "tokenizer")).pad_token_id == padding != 0


def test_the_length_that_a_tokenizer_was_made_for_is_no_limit(tmp_path: Path) -> None:
    tokenizer = load.tokenizer(PLACE)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(tmp_path)
    assert load.tokenizer(load.Place(None, tmp_path)).model_max_length > 10**9
    assert load.tokenizer(load.Place(tmp_path, tmp_path)).model_max_length == 512


@pytest.mark.parametrize("name", ["/tmp/tok", "./tok", "~/tok", "a b", "a/b/c"])
def test_a_folder_is_no_tokenizer_s_name(name: str) -> None:
    with pytest.raises(InputError, match=r"a folder goes into model\.tokenizer_path"):
        load.place(replace(tiny(), tokenizer=name))


def test_a_model_of_one_s_own_is_drawn_too(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "name: mine\nkind: decoder\narchitecture: gpt2\nconfig: {vocab_size: 2048, n_embd: 16, n_layer: 1, n_head: 2}\n"
        "tokenizer: embedded\ndataset: corpus\nhead: []\n"
    )
    with choices.beside([tmp_path]):
        found = read(compose(["method=full", "model=mine"], {"full": "full"})[0].model)
    config = build.base(found, load.place(found), LM, 0).config
    assert (config.model_type, config.n_embd, config.n_inner, config.eos_token_id) == ("gpt2", 16, None, 0)
