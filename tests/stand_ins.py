"""Tiny models with random weights, built from the config classes of the real ones, as save_pretrained writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    RobertaConfig,
)

from lrexp.models.load import TOKENIZERS

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "not")
SIZE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "pad_token_id": 0,
    "max_position_embeddings": 514, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
DEBERTA_V3: dict[str, Any] = {  # what the config of DeBERTa-v3-base says besides sizes
    "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1, "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip


def config(name: str) -> PretrainedConfig:
    """A small config of the class that the model choice has on the hub."""
    if name in ("roberta", "roberta_large"):
        return RobertaConfig(**SIZE, vocab_size=32, type_vocab_size=1)
    if name == "deberta_v3":
        return DebertaV2Config(**SIZE, **DEBERTA_V3, vocab_size=32)
    if name == "gpt2":
        return GPT2Config(vocab_size=2048, n_embd=16, n_layer=2, n_head=2, n_positions=512, eos_token_id=0)
    if name == "llama2_7b":
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        return LlamaConfig(**sizes, vocab_size=2048, max_position_embeddings=512, eos_token_id=0)
    assert name in ("bert", "minilm", "embedded")
    return BertConfig(**SIZE, vocab_size=32)


def save(name: str, place: Path) -> Path:
    """The folder of a tiny encoder without a head, and of a word tokenizer as its kind has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "attention_mask"] + ([] if name.startswith("roberta") else ["token_type_ids"])
    PreTrainedTokenizerFast(
        tokenizer_object=raw, model_max_length=512, model_input_names=inputs, **special
    ).save_pretrained(place)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        AutoModel.from_config(config(name)).save_pretrained(place)
    assert json.loads((place / "config.json").read_text())["model_type"] == config(name).model_type
    return place


def save_decoder(name: str, place: Path) -> Path:
    """The folder of a tiny causal language model with the embedded tokenizer."""
    AutoTokenizer.from_pretrained(TOKENIZERS["embedded"]).save_pretrained(place)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        AutoModelForCausalLM.from_config(config(name)).save_pretrained(place)
    assert json.loads((place / "config.json").read_text())["model_type"] == config(name).model_type
    return place
