from pathlib import Path

from lrexp.report.collect import collect
from lrexp.report.group import group
from lrexp.report.labels import labels, left_out, ordered, short_keys
from tests.report.made_up import write_run


def test_only_what_differs_within_a_method_is_named(tmp_path: Path) -> None:
    for r in (4, 8):
        write_run(tmp_path / f"lora-{r}", method__r=r)
    write_run(tmp_path / "pissa", method__name="pissa", training__learning_rate=0.1)
    assert list(map(str, labels(group(collect([tmp_path]))))) == ["lora, r=4", "lora, r=8", "pissa"]


def test_keys_left_out_are_not_named(tmp_path: Path) -> None:
    for r, rate in ((4, 1e-3), (8, 1e-2)):
        write_run(tmp_path / f"lora-{r}", method__r=r, training__learning_rate=rate)
    found = group(collect([tmp_path]))
    assert [one.detail for one in labels(found)] == ["r=4, learning_rate=0.001", "r=8, learning_rate=0.01"]
    assert [one.detail for one in labels(found, without=["training.learning_rate"])] == ["r=4", "r=8"]


def test_what_would_be_called_the_same_is_told_apart_by_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "new")
    write_run(tmp_path / "old", dataset__max_length=...)
    assert list(map(str, labels(group(collect([tmp_path]))))) == ["lora, new", "lora, old"]


def test_the_same_name_on_other_data_is_no_clash(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", provenance__data_fingerprint="another")
    assert list(map(str, labels(group(collect([tmp_path]))))) == ["lora", "lora"]


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    for rate in (0.003, 0.0015, 0.02, 0.006):
        write_run(tmp_path / f"{rate}", training__learning_rate=rate)
    found = ordered(group(collect([tmp_path])))
    assert [one.identity["training.learning_rate"] for one in found] == [0.0015, 0.003, 0.006, 0.02]


def test_the_note_names_what_is_missing_and_where(tmp_path: Path) -> None:
    for dataset in ("docmatch", "mrpc"):
        for method in ("lora", "full"):
            write_run(tmp_path / dataset / method, dataset__name=dataset, method__name=method)
    found = group(collect([tmp_path]))
    missing = [one for one in found if one.part("method") == "full"]
    both = "docmatch/embedded: full; mrpc/embedded: full"
    assert left_out(missing, found) == [f"left out, no run has the figures: {both}"]
    assert left_out(missing[:1], found[:2]) == ["left out, no run has the figures: full"]
    assert left_out([], found) == []


def test_the_note_names_six_at_most(tmp_path: Path) -> None:
    for r in range(1, 10):
        write_run(tmp_path / str(r), method__r=r)
    (note,) = left_out(found := ordered(group(collect([tmp_path]))), found)
    assert note.endswith("lora, r=5; lora, r=6; and 3 more")


def test_keys_are_short_where_that_is_unambiguous() -> None:
    keys = ["method.r", "optimizer.name", "method.tuning.learning_rate", "training.learning_rate"]
    assert list(short_keys(keys).values()) == ["r", *keys[1:]]
