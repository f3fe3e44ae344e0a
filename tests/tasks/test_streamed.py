"""Streamed text: blocks of a fixed order, read as far as a run needs them, wherever it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrexp.engine.sampler import StreamSampler, calibration
from lrexp.laws.stopping import stop_after
from lrexp.methods.catalog import families
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError, Interrupted, RunError
from lrexp.tasks import build, encode, stream
from lrexp.tasks.sources import shards
from lrexp.train import streamed_items, train
from tests.tasks import streams
from tests.tasks.streams import DOCUMENTS, made, section, text
from tests.tasks.test_causal_runs import SIZES

tokenizer, place = streams.tokenizer, streams.place  # fixtures


def order(place: Path, tokenizer: Any) -> list[tuple[int, int]]:
    """Shard and document of each sequence, in the order of the stream."""
    items = made(place, tokenizer, 3 * DOCUMENTS, max_length=64)
    said = [tokenizer.decode(item["input_ids"]).split(":")[0].split() for item in items]
    return [(int(shard), int(i)) for _, shard, i in said]


def test_every_document_once_shard_by_shard_in_a_fixed_order(place: Path, tokenizer: Any) -> None:
    found = order(place, tokenizer)
    files = list(dict.fromkeys(shard for shard, _ in found))
    assert found == [(shard, i) for shard in files for i in range(DOCUMENTS)] and sorted(files) == [0, 1, 2]
    assert files != sorted(files)  # by the seed 42


def test_one_document_a_sequence_cut_and_ended(place: Path, tokenizer: Any) -> None:
    places = order(place, tokenizer)
    for item in made(place, tokenizer, 20):
        whole = [*tokenizer(text(*places[int(item["row"])]))["input_ids"], tokenizer.eos_token_id]
        assert item["input_ids"].tolist() == whole[:16]


@pytest.mark.parametrize("batch", [3, 512])
def test_packed_blocks_are_the_documents_one_after_the_other(
    batch: int, place: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_BATCH", batch)
    for size, length in ((8, 16), (3, 7), (1, 200)):  # a sequence shorter than a document, and longer
        ids = [
            i for at in order(place, tokenizer) for i in [*tokenizer(text(*at))["input_ids"], tokenizer.eos_token_id]
        ]
        count = len(ids) // length
        items = made(place, tokenizer, count, packing=True, max_length=length, buffer_size=size)
        assert np.concatenate([item["input_ids"] for item in items]).tolist() == ids[: count * length]
        with pytest.raises(InputError, match=f"holds {count} sequences: the run takes {count + 1}; add shards"):
            made(place, tokenizer, count + 1, packing=True, max_length=length, buffer_size=size)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("kept", ["nothing", "all", "some", "damaged"])
def test_any_block_can_be_had_on_its_own(
    kept: str, packing: bool, place: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrexp.tasks.streamed_build._COUNTED", 0)
    cache = None if kept == "nothing" else tmp_path / "cache"
    whole = made(place, tokenizer, 80, cache, packing=packing)
    expected = [item["input_ids"].tolist() for item in whole]
    if cache is not None and kept != "all":
        files = sorted(cache.glob("*-*.encoded"))
        assert len(files) == 10
        files[3].unlink()
        files[6].unlink() if kept == "some" else files[6].write_bytes(b"x")
    later = made(place, tokenizer, 80, cache, packing=packing)
    for i in (70, 55, 24, 3, 79, 31):
        assert later[i]["input_ids"].tolist() == expected[i] and later[i]["row"] == i


def test_only_what_is_needed_is_read(place: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrexp.tasks.streamed_build._COUNTED", 0)
    read: list[str] = []
    true = shards.documents

    def documents(file: Path, column: str, skipped: int) -> Any:
        for found in true(file, column, skipped):
            read.append(file.name)
            yield found

    monkeypatch.setattr(shards, "documents", documents)
    items = made(place, tokenizer, 80)
    assert len([name for name in read if "train" in name]) == 8  # a block, before the run begins
    items[20]
    assert len([name for name in read if "train" in name]) == 24 and len({n for n in read if "train" in n}) == 1
    with pytest.raises(RunError, match="the shards end after 90 sequences: the run takes 99"):
        made(place, tokenizer, 99)[95]


def test_a_block_on_disk_holds_where_the_next_begins(place: Path, tokenizer: Any, tmp_path: Path) -> None:
    made(place, tokenizer, 16, tmp_path / "cache", packing=True)
    kept = encode.load(sorted((tmp_path / "cache").glob("*-000000.encoded"))[0])
    assert kept is not None and set(kept.read) == {"shard", "line", "token"} and kept.read["line"] > 0


@pytest.mark.parametrize("packing", [True, False])
def test_the_evaluation_is_the_beginning_of_validation(packing: bool, place: Path, tokenizer: Any) -> None:
    task = build.build(section(place, packing=packing), tokenizer, 0, None, True, train_items=8)
    assert (task.reported, task.selection) == ("validation", "selection")
    counts = {name: int(task.splits[name].lengths.sum()) for name in ("validation", "selection")}
    assert all(200 - 16 < count < 200 + 16 for count in counts.values())
    first = tokenizer.decode(task.splits["validation"].items[0]["input_ids"])
    assert first.startswith("document 9 0: ")
    told = ["".join(tokenizer.decode(i["input_ids"]) for i in task.splits[n].items) for n in counts]
    assert told[0] != told[1] and "document 9 0: " not in told[1]
    whole = build.build(section(place, max_eval_tokens=10**6), tokenizer, 0, train_items=8)
    assert len(whole.splits["validation"]) == 40
    with pytest.raises(InputError, match=r"no text left for selection: lower dataset\.max_eval_tokens"):
        build.build(section(place, max_eval_tokens=10**6), tokenizer, 0, None, True, train_items=8)


def test_batches_go_through_the_blocks_in_turn() -> None:
    one, two = StreamSampler(50, 8, 7, 3), StreamSampler(50, 8, 7, 3)
    steps = [one.batch(step) for step in range(8)]
    assert [len(step) for step in steps] == [7] * 7 + [1]
    flat = np.concatenate(steps)
    for number in range(7):
        block = flat[8 * number : 8 * number + 8]
        assert sorted(block) == list(range(8 * number, min(8 * number + 8, 50)))
    assert not np.array_equal(flat[:8], np.arange(8))
    assert np.array_equal(two.batch(5), steps[5]) and not np.array_equal(StreamSampler(50, 8, 7, 4).batch(5), steps[5])
    assert one.steps_per_epoch == 8


def test_calibration_reads_the_first_block_alone(place: Path, tokenizer: Any) -> None:
    import torch

    task = build.build(section(place), tokenizer, 0, train_items=80)
    rows = [int(r) for b in calibration(task, 0, torch.device("cpu"), "x", 4, 2) for r in b["row"]]
    assert sorted(rows) == list(range(8))


@pytest.mark.parametrize("setting", ["packing=true", "packing=false"])
def test_stopped_and_resumed_equals_undisturbed(
    setting: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = words(place, f"dataset.{setting}")
    whole, undisturbed = train(compose(line, families())[0], str(tmp_path / "whole"))
    for name, cache in (("kept", True), ("lost", False)):
        monkeypatch.setenv("LREXP_CACHE", str(tmp_path / f"{name} 1"))
        with monkeypatch.context() as patch:
            stop_after(patch, 5)
            with pytest.raises(Interrupted):
                train(compose(line, families())[0], str(tmp_path / name))
        if not cache:
            monkeypatch.setenv("LREXP_CACHE", str(tmp_path / f"{name} 2"))
        result, resumed = train(compose(line, families())[0], str(tmp_path / name))
        assert result["metrics"] == whole["metrics"] and result["costs"]["resumed_from"] == [5]
        assert result["costs"]["tokens_seen"] == whole["costs"]["tokens_seen"]
        assert (resumed / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def words(place: Path, *more: str) -> list[str]:
    sizes = [f"model.config.{key}={value}" for key, value in SIZES.items()]
    return [
        "model=llama_tiny", *sizes, "dataset=c4", f"dataset.path={place}", "dataset.max_length=16", "method=full",
        "dataset.buffer_size=8", "dataset.max_eval_tokens=200", "training.max_steps=8", "training.save_steps=2",
        "training.per_device_train_batch_size=3", "training.gradient_accumulation_steps=2", "hardware=cpu",
        "hardware.threads=1", *more,
    ]  # fmt: skip


def test_the_length_of_a_stream_is_that_of_the_run(place: Path, tmp_path: Path) -> None:
    assert streamed_items(compose(words(place), families())[0]) == 48
    budget = words(place, "training.max_tokens=1000", "dataset.packing=true")
    spec, _ = compose([word for word in budget if "max_steps" not in word], families())
    assert streamed_items(spec) == 60  # 10 steps of 6 sequences of 16 tokens
    assert streamed_items(compose(["dataset=corpus", "training.max_steps=3"], families())[0]) is None
    line = [word for word in words(place) if "max_steps" not in word]
    with pytest.raises(InputError, match=r"has no epochs: set training\.max_steps or max_tokens"):
        train(compose(line, families())[0], str(tmp_path / "run"))
