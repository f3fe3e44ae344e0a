"""A tiny model and a tiny data set, and the runs made of them: what the laws are tried on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lrexp.engine.session import Session

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "red",
    "blue",
    "big",
    "small",
    "fast",
    "slow",
    "and",
    "or",
    "not",
    "very",
]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests neither read nor fill the cache of the person who runs them."""
    place = tmp_path_factory.mktemp("cache")
    os.environ["LREXP_CACHE"] = str(place)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place / "inductor")
    return place


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers, 16 wide, with random weights and a word tokenizer, as save_pretrained writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from lrexp.linalg.random import ambient

    place = tmp_path_factory.mktemp("tiny_model")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=32,
    )  # fmt: skip
    tokenizer.save_pretrained(place)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with ambient(0):
        BertModel(config).save_pretrained(place)
    return place


def sentences(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Sentences whose label says whether a cat is in them."""
    rows = []
    for i in range(start, start + count):
        words = [WORDS[(i * 7 + j * (3 + i % 5)) % len(WORDS)] for j in range(3 + i % 9)]
        rows.append({"sentence": " ".join(words), "label": int("cat" in words)})
    return rows


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl (48 rows) and validation.jsonl (20 rows)."""
    place = tmp_path_factory.mktemp("tiny_data")
    for name, rows in (("train", sentences(48)), ("validation", sentences(20, 100))):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture(scope="session")
def settings() -> list[str]:
    """Further overrides of every run: a test file with a fixture of this name has its own."""
    return []


@pytest.fixture(scope="session")
def tiny(tiny_model: Path, tiny_data: Path, settings: list[str]) -> list[str]:
    """Overrides of a run that takes a second: six steps of eight sentences."""
    return [
        "model=bert", f"model.path={tiny_model}", "dataset=local", f"dataset.path={tiny_data}",
        "dataset.text_columns=[sentence]", "dataset.max_length=16", "training.max_steps=6",
        "training.per_device_train_batch_size=8", "training.save_steps=2", "training.logging_steps=1",
        "training.learning_rate=1e-2", "hardware=cpu", "hardware.threads=1", *settings,
    ]  # fmt: skip


def merged(base: list[str], overrides: tuple[str, ...]) -> list[str]:
    """The overrides in place of the base's of the same key."""
    keys = {override.partition("=")[0] for override in overrides}
    return [o for o in base if o.partition("=")[0] not in keys] + list(overrides)


def session(tiny: list[str], folder: Path, *overrides: str) -> Session:
    """The tiny run with further overrides, ready to be executed in a folder."""
    import torch

    from lrexp.engine.identify import identify
    from lrexp.engine.session import Session
    from lrexp.methods.catalog import families
    from lrexp.spec import compose
    from lrexp.train import make_context, read_data

    spec, _ = compose.compose(merged(tiny, overrides), families())
    run = identify(spec)
    torch.set_num_threads(1)
    task = read_data(run)
    folder.mkdir(exist_ok=True)
    return Session(run, task, make_context(run, task), folder)


Runner = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture
def run(tiny: list[str], tmp_path: Path) -> Runner:
    """Runs the tiny spec with further overrides into a folder of the test's own; returns the result and the folder."""
    from lrexp.methods.catalog import families
    from lrexp.spec import compose
    from lrexp.train import train

    def go(*overrides: str, to: str = "run", again: bool = False) -> tuple[dict[str, Any], Path]:
        spec, _ = compose.compose(merged(tiny, overrides), families())
        return train(spec, str(tmp_path / to), again)

    return go
