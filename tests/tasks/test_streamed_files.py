"""The files of streamed text: what they are known by, what is wrong with them, where they end."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrexp.spec.errors import InputError
from lrexp.tasks import build
from lrexp.tasks.sources import shards
from tests.tasks import streams
from tests.tasks.streams import fill, made, section, text

tokenizer, place = streams.tokenizer, streams.place  # fixtures


def test_the_fingerprint_is_of_the_content(place: Path, tmp_path: Path) -> None:
    def prints(folder: Path) -> str:
        return build.fingerprint(section(folder))

    one = prints(place)
    assert prints(fill(tmp_path / "copy")) == one
    (tmp_path / "copy" / "c4-train.00002-of-00003.json").write_text(json.dumps({"text": "other"}))
    assert prints(tmp_path / "copy") != one
    hub = build.fingerprint(section(None))  # without a network
    assert hub != one and build.fingerprint(section(None, revision="x")) != hub


CUT_SHORT = gzip.compress(b'{"text": "a"}\n' * 90, mtime=0)[:-20]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c4-train.00000-of-00003.json.gz", CUT_SHORT, r"json\.gz cannot be read"),
        ("c4-train.00000-of-00003.json.gz", b"no gzip", r"json\.gz cannot be read"),
        ("c4-train.00002-of-00003.json", b'{"text": "a"}\n{"tex', "line 2 is not a JSON object; cut short"),
        ("c4-train.00002-of-00003.json", b'{"content": "a"}\n', "line 1 has no text in 'text'; dataset.text_column"),
    ],
)
def test_a_damaged_shard_is_said_in_one_line(
    name: str, content: bytes, message: str, place: Path, tokenizer: Any
) -> None:
    (place / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        made(place, tokenizer, 60)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "/nowhere"}, "dataset.path: /nowhere is no folder"),
        (
            {"path": None},
            "en/c4-train.* of allenai/c4 is not in the cache .*HF_HUB_OFFLINE.*lrexp fetch.*dataset.path=DIR",
        ),
        ({"path": None, "hub": None}, "needs dataset.path=FOLDER or dataset.hub"),
        ({"buffer_size": 0}, "dataset.buffer_size is 0: it is at least 1"),
        ({"packing": "x"}, "dataset.packing"),
    ],
)
def test_bad_sections_are_said_in_one_line(keys: dict[str, Any], message: str, place: Path, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=message) as error:
        build.build({**section(place), **keys}, tokenizer, 0, train_items=8)
    assert "\n" not in str(error.value)
    (place / "c4-validation.00000-of-00001.jsonl").unlink()
    with pytest.raises(InputError, match="has no file with 'validation' in its name"):
        made(place, tokenizer, 8)


def test_a_token_beyond_the_vocabulary_is_refused_by_the_first_block(place: Path, tokenizer: Any) -> None:
    from lrexp.tasks import fit

    task = build.build(section(place), tokenizer, 0, train_items=8)
    with pytest.raises(InputError, match="vocab_size is 10"):
        fit.refuse_unfit(task, SimpleNamespace(vocab_size=10), "mine")


def test_a_stream_that_ends_before_the_run_is_read_no_further(
    place: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrexp.tasks.streamed_build._COUNTED", 0)
    items = made(place, tokenizer, 1000)
    opened: list[Path] = []
    real = shards.documents
    monkeypatch.setattr(shards, "documents", lambda file, *rest: (opened.append(file), real(file, *rest))[1])
    with pytest.raises(InputError, match="holds 90 sequences: the run takes 1000"):
        items.read_through()
    assert 12 <= len(opened) <= 15  # 12 blocks, three files


def test_a_folder_named_as_a_shard_is_none(place: Path, tokenizer: Any) -> None:
    (place / "c4-train.extra.json").mkdir()
    assert len(made(place, tokenizer, 8)) == 8


def test_documents_without_a_token_are_passed_over_at_the_edge_of_a_block(place: Path, tokenizer: Any) -> None:
    """A tokenizer that makes nothing of a document that is not empty."""

    class Blind:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], **keys: Any) -> Any:
            return tokenizer([text.replace("\u200b", "") for text in texts], **keys)

    rows = [json.dumps({"text": text(0, i)}) for i in range(7)] + [json.dumps({"text": "\u200b"})] * 2
    rows += [json.dumps({"text": text(1, i)}) for i in range(20)]
    for file in place.glob("c4-train*"):
        file.unlink()
    (place / "c4-train.00000-of-00001.json").write_text("\n".join(rows))
    assert len(list(made(place, Blind(), 24))) == 24
