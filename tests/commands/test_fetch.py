"""What a run needs is found in the caches, downloaded from a hub that stands in, or refused in a line."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrexp.cli import main
from lrexp.models import hub
from lrexp.tasks.sources.shards import HUB_SHARDS
from lrexp.tasks.splits import shuffled
from tests.commands.hub_cache import put_model, use
from tests.commands.stand_in_hub import standing_in
from tests.tasks.conftest import pairs, write
from tests.tasks.test_glue import fill_cache

BERT = "google-bert/bert-base-uncased"
JSON = ["--format", "json"]
MRPC = ["dataset=mrpc", "dataset.max_length=16"]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    from lrexp.tasks.sources.hub import hub_tables

    hub_tables.cache_clear()
    yield
    hub_tables.cache_clear()


def fetched(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    assert main(["fetch", *words, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return {row["what"]: row for row in json.loads(out)}


def test_what_the_caches_hold_is_found_without_a_network(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, tmp_path / "hub", tmp_path / "datasets")
    snapshot = put_model(tmp_path / "hub", BERT, tiny_model)
    fill_cache(tmp_path / "datasets")
    rows = fetched(capsys, "model=bert", *MRPC)
    assert rows["model=bert"] == {
        "what": "model=bert", "state": "cached", "size": hub.size(tiny_model), "place": str(snapshot),
    }  # fmt: skip
    assert rows["dataset=mrpc"]["state"] == "cached"
    assert rows["dataset=mrpc"]["place"].startswith(str(tmp_path / "datasets" / "nyu-mll___glue" / "mrpc"))
    assert rows["tokens of mrpc for bert"]["state"] == "encoded"
    again = fetched(capsys, "model=bert", *MRPC)
    assert {row["state"] for row in again.values()} == {"cached"}


def test_local_places_and_the_default_need_no_download(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(fetched(capsys, *tiny).values())
    assert [row["state"] for row in rows[:2]] == ["local", "local"]
    assert f"model.path={rows[0]['place']}" in tiny and f"dataset.path={rows[1]['place']}" in tiny
    monkeypatch.setattr("lrexp.tasks.build.build", lambda *arguments, **keywords: None)  # it takes seconds
    assert [row["state"] for row in fetched(capsys).values()] == ["in the package", "needs no download", "cached"]


def test_a_sweep_fetches_each_thing_once(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert len(fetched(capsys, *tiny, "seed=1,2", "method=lora,full")) == 3


def test_not_there_and_downloads_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, tmp_path, tmp_path)
    assert main(["fetch", "model=roberta", "dataset=mrpc"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "FacebookAI/roberta-base" in err and "HF_HUB_OFFLINE" in err and "lrexp fetch model=roberta" in err


def test_what_is_there_is_shown_before_the_error(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, tmp_path, tmp_path)
    assert main(["fetch", f"model.path={tiny_model}", "dataset=rte"]) == 2
    out, err = capsys.readouterr()
    assert str(tiny_model) in out
    assert "nyu-mll/glue rte" in err and "lrexp fetch dataset=rte" in err


@pytest.mark.parametrize("words", [["model=rob"], ["no.yaml"], ["--formt", "json"], ["model=bert", "modell=x"]])
def test_bad_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


T5 = "google-t5/t5-base"
TEXT = ["dataset=text", "method=full"]


def test_of_a_model_that_is_drawn_the_tokenizer_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrexp.models.load import TOKENIZERS

    use(monkeypatch, tmp_path / "hub", tmp_path / "datasets")
    (tmp_path / "a.txt").write_text("def f(x):\n    return x\n" * 200)
    words = ["model=llama_60m", *TEXT, f"dataset.path={tmp_path / 'a.txt'}"]
    assert main(["fetch", *words]) == 2
    err = capsys.readouterr().err
    assert "its tokenizer, google-t5/t5-base, is not in the cache" in err and "model.tokenizer=embedded" in err
    assert "model.path" not in err and len(err.splitlines()) == 1
    put_model(tmp_path / "hub", T5, TOKENIZERS["embedded"])
    assert fetched(capsys, *words)["tokenizer of llama_60m"]["state"] == "cached"
    local = f"model.tokenizer_path={TOKENIZERS['embedded']}"
    assert fetched(capsys, *words, local)["tokenizer of llama_60m"]["state"] == "local"
    assert fetched(capsys, *words, "model.tokenizer=embedded")["tokenizer of llama_60m"]["state"] == "in the package"
    assert main(["fetch", *words, f"model.tokenizer=embedded,{T5}", "--format", "json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["what"] == "tokenizer of llama_60m"]
    assert [row["state"] for row in rows] == ["in the package", "cached"]


def test_a_tokenizer_that_comes_from_the_hub_is_not_in_the_package(tmp_path: Path) -> None:
    from lrexp.models.load import TOKENIZERS

    root, place = tmp_path / "hub", tmp_path / "home"
    place.mkdir()
    (root / "models" / T5).parent.mkdir(parents=True)
    (root / "models" / T5).symlink_to(TOKENIZERS["embedded"])
    (tmp_path / "a.txt").write_text("def f(x):\n    return x\n" * 200)
    with standing_in(root) as (address, _):
        words = ["model=llama_60m", *TEXT, f"dataset.path={tmp_path / 'a.txt'}", "--format", "json"]
        found = run(place, *words, HF_ENDPOINT=address)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)[0]["state"] == "downloaded"


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000])


def shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "lacking"),
    [
        (lambda folder: None, ()),
        (cut, ("model.safetensors",)),
        (shard, ("model-2.safetensors",)),
        (lambda folder: (folder / "model.safetensors").unlink(), ("*.safetensors",)),
        (lambda folder: (folder / "config.json").unlink(), ("config.json",)),
        (lambda folder: (folder / "tokenizer.json").unlink(), ("tokenizer.json",)),
    ],
)
def test_what_a_snapshot_lacks_is_named(
    spoil: Any, lacking: tuple[str, ...], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path, tmp_path)
    spoil(put_model(tmp_path, BERT, tiny_model))
    found = hub.cached(BERT)
    assert found is not None and found.lacks == lacking


def test_a_look_up_that_hangs_is_given_up() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer"):
        hub.ask(lambda: time.sleep(5), 0.1)
    assert time.monotonic() - started < 2
    assert hub.ask(lambda: 3, 5) == 3


def test_weights_that_the_hub_has_only_as_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import HfApi, constants

    use(monkeypatch, tmp_path, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = [SimpleNamespace(rfilename=name, size=1) for name in ("config.json", "pytorch_model.bin")]
    monkeypatch.setattr(HfApi, "model_info", lambda *arguments, **more: SimpleNamespace(siblings=files))
    assert main(["fetch", "model=deberta_v3"]) == 2
    assert "no *.safetensors on the hub" in capsys.readouterr().err


def run(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"HF_HOME": str(place), "LREXP_CACHE": str(place / "own"), "HF_HUB_OFFLINE": "0"}
    line = [sys.executable, "-m", "lrexp", "fetch", *words]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=300, cwd=place, env={**os.environ, **own, **variables}
    )


def test_a_hub_that_is_down(tmp_path: Path) -> None:
    started = time.monotonic()
    found = run(tmp_path, "model=roberta", HF_ENDPOINT="http://127.0.0.1:9")
    assert (found.returncode, found.stdout, len(found.stderr.splitlines())) == (2, "", 1)
    assert "no network" in found.stderr and "lrexp fetch model=roberta" in found.stderr
    assert time.monotonic() - started < 20 + 20  # a busy machine needs its time for the imports


def test_downloads_from_a_hub_are_enough_for_an_offline_run(tiny_model: Path, tmp_path: Path) -> None:
    root, place = tmp_path / "hub", tmp_path / "home"
    place.mkdir()
    (root / "models" / BERT).parent.mkdir(parents=True)
    (root / "models" / BERT).symlink_to(tiny_model)
    glue = root / "datasets" / "nyu-mll" / "glue"
    (glue / "mrpc").mkdir(parents=True)
    splits = {"train": 12, "validation": 6}
    for split, count in splits.items():
        write(glue / "mrpc" / f"{split}-00000-of-00001.parquet", pairs(count))
    files = "".join(f"  - split: {split}\n    path: mrpc/{split}-*\n" for split in splits)
    (glue / "README.md").write_text(f"---\nconfigs:\n- config_name: mrpc\n  data_files:\n{files}---\n")
    with standing_in(root) as (address, asked):
        first = run(place, "model=bert", *MRPC, "--format", "json", HF_ENDPOINT=address)
        assert first.returncode == 0, first.stderr
        assert [row["state"] for row in json.loads(first.stdout)] == ["downloaded", "downloaded", "encoded"]
        asked.clear()
        second = run(place, "model=bert", *MRPC, "--format", "json", HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
        assert second.returncode == 0, second.stderr
        assert [row["state"] for row in json.loads(second.stdout)] == ["cached", "cached", "cached"]
        assert asked == [] and second.stderr == ""


def test_a_stream_is_downloaded_as_far_as_the_run_trains_on_it(tmp_path: Path) -> None:
    root, place = tmp_path / "hub", tmp_path / "home"
    place.mkdir()
    first = int(shuffled(HUB_SHARDS["train"], "42:shards")[0])
    names = [f"c4-train.{first:05d}-of-01024.json.gz", "c4-validation.00000-of-00008.json.gz"]
    (root / "datasets" / "allenai" / "c4" / "en").mkdir(parents=True)
    for name in names:
        content = "".join(json.dumps({"text": f"page {i} of {name}"}) + "\n" for i in range(20)).encode()
        (root / "datasets" / "allenai" / "c4" / "en" / name).write_bytes(gzip.compress(content))
    words = [
        "model=llama_tiny",
        "dataset=c4",
        "dataset.max_length=16",
        "dataset.max_eval_tokens=50",
        "dataset.buffer_size=8",
        "training.per_device_train_batch_size=4",
    ]
    with standing_in(root) as (address, asked):
        one = run(place, *words, "training.max_steps=3", *JSON, HF_ENDPOINT=address)
        assert one.returncode == 0, one.stderr
        assert [row["state"] for row in json.loads(one.stdout)] == [
            "in the package", "fetched with its tokens", "encoded",
        ]  # fmt: skip
        assert {Path(path).name for path in asked if path.endswith(".gz")} == set(names)
        asked.clear()
        two = run(place, *words, "training.max_steps=3", *JSON, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
        assert [row["state"] for row in json.loads(two.stdout)][2] == "cached" and asked == []
    more = run(place, *words, "training.max_steps=9", *JSON, HF_HUB_OFFLINE="1")  # a second file would be needed
    assert more.returncode == 2 and len(more.stderr.splitlines()) == 1
    assert "HF_HUB_OFFLINE is set" in more.stderr and "run `lrexp fetch` with the words of the run" in more.stderr


@pytest.mark.parametrize(("model", "dataset"), [("mlp", "docmatch"), ("embedded", "digits")])
def test_a_model_and_data_that_do_not_go_together(model: str, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", f"model={model}", f"dataset={dataset}"]) == 2
    assert "do not go together" in capsys.readouterr().err
