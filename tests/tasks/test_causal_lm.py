"""Causal language modelling: tokens, bytes, blocks, losses and metrics."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2Config

from lrexp.models.load import TOKENIZERS
from lrexp.spec.choices import choice
from lrexp.spec.errors import InputError
from lrexp.tasks import build, fit, language_encode
from lrexp.tasks.causal_lm import IGNORED
from lrexp.tasks.language import LanguageData
from lrexp.tasks.language_encode import byte_sizes, encode, pieces
from lrexp.tasks.metrics import language_metrics

TEXTS = ["def f(x):\n    return x + 1\n", "naïve café ☕ — déjà vu\n" * 3, "x"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOKENIZERS["embedded"])


class Constant(nn.Module):
    """Logits that depend on the token alone."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = True) -> Any:
        return SimpleNamespace(logits=self.table[input_ids])


def section(**keys: Any) -> dict[str, Any]:
    return {"name": "text", "source": "text", "task": "causal_lm", "max_length": 16, **keys}


def folder(place: Path, **splits: str) -> Path:
    place.mkdir()
    for name, text in splits.items():
        (place / f"{name}.txt").write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("text", TEXTS)
def test_sizes_of_tokens_add_up_to_the_text(text: str, tokenizer: Any) -> None:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    sizes = byte_sizes(text, found["offset_mapping"])
    assert sizes.sum() == len(text.encode()) and (sizes >= 0).all()


def test_blanks_that_a_tokenizer_drops_count_with_the_next_token() -> None:
    assert byte_sizes("ab  cd ", [(0, 2), (4, 6)]).tolist() == [2, 4]
    assert byte_sizes("é", [(0, 1), (0, 1)]).tolist() == [2, 0]  # two tokens share a character
    assert byte_sizes("", []).tolist() == []


def test_packed_blocks_are_the_documents_one_after_the_other(tokenizer: Any) -> None:
    data = LanguageData("text", "text", max_length=8)
    found = encode(TEXTS, tokenizer, data, "train")
    ids = [i for text in TEXTS for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], 0]]
    assert tokenizer.eos_token_id == 0
    assert len(found) == len(ids) // 8 and set(found.lengths) == {8}
    assert np.concatenate([item["input_ids"] for item in found]).tolist() == ids[: 8 * len(found)]


def test_one_document_a_sequence_is_cut_at_the_length(tokenizer: Any) -> None:
    data = LanguageData("text", "text", max_length=8, packing=False)
    found = encode(TEXTS, tokenizer, data, "train")
    whole = [[*tokenizer(text, add_special_tokens=False)["input_ids"], 0] for text in TEXTS]
    assert [item["input_ids"].tolist() for item in found] == [ids[:8] for ids in whole]


def test_documents_without_a_target_are_dropped(tokenizer: Any) -> None:
    data = LanguageData("text", "text", max_length=8, packing=False)
    found = encode(["", "x", "", *TEXTS], tokenizer, data, "train")
    assert found.rows.tolist() == [1, 3, 4, 5] and found.lengths.min() == 2
    alone = encode(TEXTS, tokenizer, data, "train")
    assert [item["input_ids"].tolist() for item in found][1:] == [item["input_ids"].tolist() for item in alone]
    with pytest.raises(InputError, match="train: no document has a token to predict"):
        encode(["", ""], tokenizer, data, "train")


def test_pieces_are_cut_at_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_encode, "PIECE", 8)
    documents = ["ab\ncd\nefg\nh", "", "exactly8", "one two three", "0123456789"]
    found = list(pieces(documents))
    assert ["|".join(p.text for p in found if p.document == i) for i in range(5)] == [
        "ab\ncd\n|efg\nh", "", "exactly8", "one two| three", "01234567|89",
    ]  # fmt: skip
    assert [p.document for p in found if p.ends] == [0, 1, 2, 3, 4]


def test_a_document_in_pieces_keeps_its_bytes_and_nearly_all_tokens(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LanguageData("text", "text", max_length=100_000, packing=False)
    documents = [TEXTS[1] * 20, TEXTS[0] * 30, "\n\n \n"]
    whole = encode(documents, tokenizer, data, "train")
    monkeypatch.setattr(language_encode, "PIECE", 100)
    monkeypatch.setattr(language_encode, "_BATCH", 150)
    cut = encode(documents, tokenizer, data, "train")
    for i, text in enumerate(documents):
        assert tokenizer.decode(cut[i]["input_ids"][:-1]) == text
        assert cut[i]["bytes"].sum() == whole[i]["bytes"].sum() == len(text.encode())
        assert abs(len(cut[i]["input_ids"]) - len(whole[i]["input_ids"])) < 20
    assert cut.tokens["input_ids"].dtype == cut.tokens["bytes"].dtype == np.int32


def test_line_ends_that_a_tokenizer_drops_at_a_cut_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(texts: list[str], **keywords: Any) -> dict[str, Any]:
        spans = [[m.span() for m in re.finditer(r"\S+", text)] for text in texts]
        return {"input_ids": [[1] * len(found) for found in spans], "offset_mapping": spans}

    tokenizer: Any = words
    tokenizer.eos_token_id = 0
    data = LanguageData("text", "text", max_length=100, packing=False)
    documents = ["é b\n\n\nccc d\n", "e f"]
    whole = encode(documents, tokenizer, data, "train").tokens["bytes"].tolist()
    monkeypatch.setattr(language_encode, "PIECE", 6)
    assert encode(documents, tokenizer, data, "train").tokens["bytes"].tolist() == whole == [2, 2, 6, 2, 0, 1, 2, 0]


def test_widths_of_characters_are_those_of_utf_8() -> None:
    text = "a\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff"
    spans = [(i, i + 1) for i in range(len(text))]
    assert byte_sizes(text, spans).tolist() == [len(character.encode()) for character in text]


@pytest.mark.parametrize(("packing", "tail"), [(True, True), (False, False)])
def test_what_is_held_out_of_packed_text_is_its_end(packing: bool, tail: bool, tokenizer: Any, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"{i} is a number"}) + "\n" for i in range(200))
    (tmp_path / "train.jsonl").write_text(rows)

    def held(seed: int) -> dict[str, list[int]]:
        keys = section(path=str(tmp_path), packing=packing)
        task = build.build(keys, tokenizer, seed, hold_out_selection=True)
        return {name: [int(item["row"]) for item in split.items] for name, split in task.splits.items()}

    one = held(1)
    in_order = one["train"] + one["selection"] + one["validation"]
    assert sorted(in_order) == list(range(len(in_order)))
    assert (in_order == sorted(in_order)) is tail
    assert (held(2) == one) is tail


def test_a_model_without_some_token_or_place_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    place = folder(tmp_path / "data", train="\n".join(TEXTS) * 20, validation="\n".join(TEXTS))
    task = build.build(section(path=str(place)), tokenizer, 0)
    ids = np.concatenate([item["input_ids"] for split in task.splits.values() for item in split.items])
    most = int(ids.max())
    fit.refuse_unfit(task, SimpleNamespace(vocab_size=most + 1, max_position_embeddings=16), "mine")
    fit.refuse_unfit(task, SimpleNamespace(vocab_size=most + 1), "mine")
    with pytest.raises(InputError, match=f"vocab_size is {most}, but the tokenizer gave token {most}"):
        fit.refuse_unfit(task, SimpleNamespace(vocab_size=most), "mine")
    for config in (SimpleNamespace(max_position_embeddings=15), GPT2Config(n_positions=15)):
        with pytest.raises(InputError, match="max_length is 16, but model=mine takes at most 15"):
            fit.refuse_unfit(task, config, "mine")


def test_loss_and_metrics_are_those_of_every_token_but_the_first(tokenizer: Any, tmp_path: Path) -> None:
    place = folder(tmp_path / "data", train="\n".join(TEXTS) * 20, validation="\n".join(TEXTS))
    task = build.build(section(path=str(place), packing=False), tokenizer, 0)
    model = Constant(len(tokenizer))
    items = list(task.splits["validation"].items)
    batch = task.collate(items)
    assert batch["input_ids"].shape == (1, 16)  # one document, cut
    reference, sizes = 0.0, 0
    for item in items:
        ids = torch.from_numpy(item["input_ids"].astype(np.int64))
        reference += float(F.cross_entropy(model.table[ids][:-1], ids[1:], reduction="sum").detach())
        sizes += int(item["bytes"][1:].sum())
    assert float(task.loss(model, batch).detach()) == pytest.approx(reference, rel=1e-6)
    targets = task.targets(batch)
    assert targets == sum(len(item["input_ids"]) - 1 for item in items)
    found = task.metrics(task.predict(model, batch))
    assert found["loss"] == pytest.approx(reference / targets, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(reference / targets), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(reference / math.log(2) / sizes, rel=1e-6)


def test_padding_is_no_target(tokenizer: Any, tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    rows = [f'{{"text": "{"word " * n}"}}\n' for n in (1, 3, 9, 30)]
    (place / "train.jsonl").write_text("".join(rows) * 8)
    task = build.build(section(path=str(place), packing=False), tokenizer, 0)
    model = Constant(len(tokenizer))
    items = [task.splits["train"].items[i] for i in range(8)]
    together = task.predict(model, task.collate(items))
    for i, item in enumerate(items):
        alone = task.predict(model, task.collate([item]))
        for name in ("loss", "tokens", "bytes"):
            assert together[name][i] == pytest.approx(alone[name][0], rel=1e-6)
    batch = task.collate(items)
    assert ((batch["labels"] == IGNORED) == (batch["attention_mask"] == 0)).all()


def test_metrics_weigh_tokens_not_sequences() -> None:
    found = language_metrics(np.array([10.0, 1.0]), np.array([10, 2]), np.array([40, 4]))
    assert found["loss"] == pytest.approx(11 / 12)
    assert found["bits_per_byte"] == pytest.approx(11 / math.log(2) / 44)


def test_the_error_of_the_loss_covers_what_resampling_shows() -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(5, 50, 400)
    losses = tokens * draw.normal(3, 0.5, 400)
    found = language_metrics(losses, tokens, tokens)
    picks = draw.integers(0, 400, (2000, 400))
    spread = np.std(losses[picks].sum(1) / tokens[picks].sum(1))
    assert found["loss_standard_error"] == pytest.approx(spread, rel=0.1)


def test_the_embedded_corpus_splits_by_module(tokenizer: Any) -> None:
    from lrexp.tasks.sources.stdlib_text import read

    keys = {field.key: field.default for field in choice("dataset", "corpus").fields}
    documents = read(build.check({"name": "corpus", **keys}))
    assert all(len(texts) > 20 for texts in documents.values())
    assert not set(documents["train"]) & set(documents["test"])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"path": None}, "needs dataset.path"),
        ({"max_length": 3}, "max_length is 3"),
        ({"text_column": "body"}, "has no column 'body' (did you mean"),
        ({"max_length": 100000}, "fewer than one block"),
    ],
)
def test_bad_sections_are_said_in_one_line(keys: dict[str, Any], words: str, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"boddy": "a"}\n' if "text_column" in keys else '{"text": "a b c"}\n' * 9)
    with pytest.raises(InputError) as error:
        build.build({**section(path=str(tmp_path)), **keys}, tokenizer, 0)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_train_is_told_every_ending(tokenizer: Any, tmp_path: Path) -> None:
    place = folder(tmp_path / "data", validation="a")
    with pytest.raises(InputError, match=r"train\.csv or train\.txt"):
        build.build(section(path=str(place)), tokenizer, 0)
