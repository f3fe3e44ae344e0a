"""GLUE from a local copy, from the hub's cache, and the one line where neither is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lrexp.spec.errors import InputError
from lrexp.tasks import build
from lrexp.tasks.sources import hub
from tests.tasks.conftest import pairs, section, write

NAMES = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


def copy(place: Path, name: str) -> Path:
    """A small copy with the columns and splits of GLUE; labels of test hidden."""
    keys = build.check(section(None, name=name))
    classes = len(keys.labels or ()) or 5
    for split, count in (("train", 12), ("validation", 6), ("test", 4)):
        rows = [
            {**{column: row["sentence1"] for column in keys.columns}, "label": -1 if split == "test" else row["label"]}
            for row in pairs(count, classes)
        ]
        if keys.task == "regression":
            rows = [{**row, "label": float(row["label"])} for row in rows]
        for suffix in ("_matched", "_mismatched") if name == "mnli" and split != "train" else ("",):
            write(place / f"{split}{suffix}.parquet", [{**row, "idx": i} for i, row in enumerate(rows)])
    return place


@pytest.mark.parametrize("name", NAMES)
def test_every_task_from_a_local_copy_reports_validation(tmp_path: Path, tokenizer: Any, name: str) -> None:
    task = build.build(section(copy(tmp_path, name), name=name), tokenizer, seed=1)
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 12, "validation": 6}
    assert (task.reported, task.selection) == ("validation", None)
    assert task.outputs.num_labels == {"stsb": 1, "mnli": 3}.get(name, 2)
    assert task.kind == ("regression" if name == "stsb" else "classification")
    assert task.primary_metric == {"cola": "matthews", "stsb": "pearson"}.get(name, "accuracy")


def test_a_label_that_the_task_does_not_have(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [{**row, "label": 2 * row["label"]} for row in pairs(6)])
    with pytest.raises(InputError, match=r"row 2 has the label 2 .*out of range: the classes are 0 to 1"):
        build.build(section(tmp_path, name="mrpc"), FakeTokenizer, seed=1)


class FakeTokenizer:
    """Enough of a tokenizer for data that is refused before it is encoded."""

    model_max_length = 512
    pad_token_id = 0


def test_not_cached_and_offline_is_one_line_that_says_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(
        InputError, match=r"nyu-mll/glue mrpc is not in the cache .*HF_HUB_OFFLINE.*dataset.path=FOLDER"
    ) as caught:
        build.fingerprint(section(None, name="mrpc"))
    assert "\n" not in str(caught.value) and time.monotonic() - started < 5
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    asked = []

    def refuse(name: str) -> None:
        asked.append(name)
        raise ConnectionError("Name or service not known\nsecond line")

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_probe", refuse)
    with pytest.raises(InputError, match=r"no network: Name or service not known second line") as caught:
        build.fingerprint(section(None, name="rte"))
    assert asked == ["nyu-mll/glue"] and "\n" not in str(caught.value)
    assert config.HF_HUB_OFFLINE is False


def test_what_the_cache_holds_is_read_without_a_network(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from datasets import config

    fill_cache(tmp_path)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    hub.hub_tables.cache_clear()
    task = build.build(section(None, name="mrpc"), tokenizer, seed=1)
    hub.hub_tables.cache_clear()
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 12, "validation": 6}
    assert task.fingerprint == build.fingerprint(section(None, name="mrpc"))
    assert capfd.readouterr() == ("", "")
    hub.hub_tables.cache_clear()


def fill_cache(place: Path) -> None:
    """What `datasets` leaves behind after it has prepared mrpc."""
    from datasets import ClassLabel, DatasetInfo, Features, Value

    folder = place / "nyu-mll___glue" / "mrpc" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    features = Features(
        {
            "sentence1": Value("string"),
            "sentence2": Value("string"),
            "label": ClassLabel(names=["not_equivalent", "equivalent"]),
        }
    )
    counts = {"train": 12, "validation": 6}
    for split, count in counts.items():
        table = pa.Table.from_pylist(pairs(count), schema=features.arrow_schema)
        with pa.ipc.new_stream(str(folder / f"glue-{split}.arrow"), table.schema) as sink:
            sink.write_table(table)
    splits = {split: {"name": split, "num_examples": count, "dataset_name": "glue"} for split, count in counts.items()}
    info = DatasetInfo(
        features=features,
        builder_name="parquet",
        dataset_name="glue",
        config_name="mrpc",
        version="0.0.0",
        splits=splits,
    )
    info.write_to_directory(str(folder))
