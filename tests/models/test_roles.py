"""Targets by role, name and pattern, on models of the real classes with tiny shapes."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import nn

from lrexp.models.roles import group_of, head_modules, matches, pattern_values, select, selection
from lrexp.spec.errors import InputError

SMALL = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 20,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}


def bert() -> nn.Module:
    return build("Bert", "ForSequenceClassification", SMALL)


def build(name: str, kind: str, shape: dict[str, object]) -> nn.Module:
    with torch.device("meta"):
        return getattr(hf, name + kind)(getattr(hf, name + "Config")(**shape))


BERT_ROLES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense",
}  # fmt: skip
DEBERTA_ROLES = BERT_ROLES | {r: f"attention.self.{n}_proj" for r, n in (("q", "query"), ("k", "key"), ("v", "value"))}
LLAMA_ROLES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "up": "mlp.up_proj", "down": "mlp.down_proj", "gate": "mlp.gate_proj",
}  # fmt: skip
DISTIL_ROLES = {
    "q": "attention.q_lin", "k": "attention.k_lin", "v": "attention.v_lin", "o": "attention.out_lin",
    "up": "ffn.lin1", "down": "ffn.lin2",
}  # fmt: skip
VIT_ROLES = {
    "q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj", "o": "attention.o_proj",
    "up": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip
DISTIL = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12, "vocab_size": 20}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c"]}
VIT = {"image_size": 8, "patch_size": 4}
CLASSIFY, GENERATE, SEE = "ForSequenceClassification", "ForCausalLM", "ForImageClassification"
MODELS = [
    ("Bert", CLASSIFY, {}, "bert.encoder.layer.0.", BERT_ROLES),
    ("Roberta", CLASSIFY, {}, "roberta.encoder.layer.0.", BERT_ROLES),
    ("DebertaV2", CLASSIFY, DEBERTA, "deberta.encoder.layer.0.", DEBERTA_ROLES),
    ("DistilBert", CLASSIFY, DISTIL, "distilbert.transformer.layer.0.", DISTIL_ROLES),
    ("Llama", GENERATE, {}, "model.layers.0.", LLAMA_ROLES),
    ("ViT", SEE, VIT, "vit.layers.0.", VIT_ROLES),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "extra", "prefix", "roles"), MODELS, ids=[m[0] for m in MODELS])
def test_every_role_is_the_one_layer_that_plays_it(
    name: str, kind: str, extra: dict[str, object], prefix: str, roles: dict[str, str]
) -> None:
    model = build(name, kind, SMALL | extra if name != "DistilBert" else extra)
    for role, layer in roles.items():
        assert select(model, role, ("classifier",)) == [prefix + layer]
    assert set(select(model, ("attention", "mlp"), ("classifier",))) == {prefix + layer for layer in roles.values()}
    linear = select(model, "all-linear", ("classifier", "pooler", "pre_classifier"))
    assert {prefix + layer for layer in roles.values()} <= set(linear)
    assert not any("classifier" in n or "lm_head" in n or "pooler" in n for n in linear)


def test_fused_layer_of_gpt2_is_taken_by_slices() -> None:
    model = build("GPT2", "LMHeadModel", GPT2)
    c_attn = "transformer.h.0.attn.c_attn"
    assert selection(model, ("q", "v"), ()) == {c_attn: (True, False, True)}
    assert selection(model, "attention", ()) == {c_attn: (True, True, True), "transformer.h.0.attn.c_proj": ()}
    assert selection(model, ("q", "c_attn"), ()) == {c_attn: ()}
    assert selection(model, "all-linear", ())[c_attn] == ()
    assert select(model, "mlp", ()) == ["transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj"]


def test_interleaved_layer_is_taken_whole_or_not_at_all() -> None:
    model = build("GPTNeoX", GENERATE, SMALL)
    fused = "gpt_neox.layers.0.attention.query_key_value"
    assert selection(model, ("q", "k", "v"), ()) == {fused: ()}
    assert selection(model, "attention", ())[fused] == ()
    with pytest.raises(InputError, match="interleaved"):
        selection(model, ("q", "v"), ())


def test_t5_has_gates_and_tells_tied_tables() -> None:
    shape = {"d_model": 8, "d_ff": 12, "num_layers": 1, "num_heads": 2, "d_kv": 4, "vocab_size": 20}
    model = build("T5", "ForConditionalGeneration", {**shape, "feed_forward_proj": "gated-gelu"})
    assert len(select(model, "q", ())) == 3
    assert [n.rsplit(".", 1)[1] for n in select(model, "mlp", ())] == ["wi_0", "wi_1", "wo"] * 2


def test_names_patterns_and_overlaps() -> None:
    model = bert()
    query = "bert.encoder.layer.0.attention.self.query"
    assert select(model, "query", ()) == [query]
    assert select(model, "self.query", ()) == [query]
    assert select(model, r".*\.(query|key)", ()) == [query, query.replace("query", "key")]
    assert select(model, ("q", "query", r".*query", "attention"), ())[0] == query
    assert len(select(model, ("q", "query", "attention"), ())) == 4
    assert select(model, "word_embeddings", ()) == ["bert.embeddings.word_embeddings"]


@pytest.mark.parametrize("target", ["qurey", "gate", "nothing at all", r".*\.query2"])
def test_no_match_is_an_error_that_names_what_there_is(target: str) -> None:
    with pytest.raises(InputError, match="matches no layer") as error:
        select(bert(), target, ())
    assert "query" in str(error.value)
    assert "\n" not in str(error.value)


def test_near_name_is_offered() -> None:
    with pytest.raises(InputError, match="did you mean 'query'"):
        select(bert(), "qurey", ())


def test_head_is_never_taken() -> None:
    model = build("Roberta", CLASSIFY, SMALL)
    assert not any("classifier" in name for name in select(model, "all-linear", ("classifier",)))
    for target in ("classifier.dense", "dense", r".*out_proj"):
        with pytest.raises(InputError, match="head"):
            select(model, target, ("classifier",))
    assert head_modules(model, ("classifier",)) == ["classifier"]
    assert head_modules(model, (r"classifier\..*",)) == [
        "classifier.dense",
        "classifier.dropout",
        "classifier.out_proj",
    ]


def test_tied_weights_are_left_alone() -> None:
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2))
    for target in ("wte", "lm_head"):
        with pytest.raises(InputError, match="shares its weight"):
            select(model, target, ())
    assert "lm_head" not in select(model, "all-linear", ())


def test_layers_whose_weight_is_read_without_a_call_are_not_offered() -> None:
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert select(model, "all-linear", ()) == ["1"]


def test_patterns_give_values_and_the_first_counts() -> None:
    model = bert()
    names = select(model, ("q", "v"), ())
    assert pattern_values(model, {"query": 2, r".*": 3}, names, "rank_pattern") == dict(zip(names, (2, 3), strict=True))
    assert pattern_values(model, {"v": 5}, names, "rank_pattern") == {names[1]: 5}
    with pytest.raises(InputError, match="rank_pattern: 'key' matches none"):
        pattern_values(model, {"key": 2}, names, "rank_pattern")


def test_a_name_is_matched_by_whole_parts() -> None:
    assert matches("b.c", "a.b.c")
    assert not matches("b.c", "a.bb.c")
    with pytest.raises(InputError, match="no regular expression"):
        matches("a(", "b")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("encoder.layer.0.attention.output.dense", "attention"),
        ("encoder.layer.0.output.dense", "mlp"),
        ("transformer.h.0.attn.c_attn", "attention"),
        ("transformer.h.0.mlp.c_proj", "mlp"),
        ("model.layers.0.mlp.gate_up_proj", "mlp"),
        ("model.embed_tokens", None),
        ("lm_head", None),
    ],
)
def test_a_module_is_in_one_group_of_roles_or_in_none(name: str, group: str | None) -> None:
    assert group_of(name) == group
