"""A small C4 on disk: shards of documents, and what a run makes of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lrexp.models.load import TOKENIZERS
from lrexp.tasks import build

DOCUMENTS = 30  # in each of train's shards


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOKENIZERS["embedded"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return fill(tmp_path / "shards")


def text(shard: int, i: int) -> str:
    return f"document {shard} {i}: " + f"def f{i}(x): return {shard}\n" * (1 + (7 * i + shard) % 9)


def fill(place: Path) -> Path:
    """Three shards of train, two compressed, with an empty document and a blank line in each; one of validation."""
    place.mkdir(exist_ok=True)
    for shard in range(3):
        rows = [json.dumps({"text": text(shard, i), "url": "x"}) for i in range(DOCUMENTS)]
        rows[4:4] = [json.dumps({"text": " \n"}), ""]
        content = "\n".join(rows).encode() + b"\n"
        if shard == 2:
            (place / "c4-train.00002-of-00003.json").write_bytes(content)
        else:
            (place / f"c4-train.0000{shard}-of-00003.json.gz").write_bytes(gzip.compress(content, mtime=0))
    rows = [json.dumps({"text": text(9, i)}) for i in range(40)]
    (place / "c4-validation.00000-of-00001.jsonl").write_text("\n".join(rows))
    return place


def section(place: Path | str | None, **keys: Any) -> dict[str, Any]:
    usual = {"max_length": 16, "buffer_size": 8, "max_eval_tokens": 200}
    return {"name": "c4", "task": "causal_lm", "source": "c4", "path": place and str(place), **usual, **keys}


def made(place: Path, tokenizer: Any, count: int, cache: Path | None = None, **keys: Any) -> Any:
    return build.build(section(place, **keys), tokenizer, 0, cache, train_items=count).splits["train"].items
