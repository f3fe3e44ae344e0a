"""Image classification: where images come from, what becomes of pixels, what is refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.linalg.random import ambient
from lrexp.spec.errors import InputError
from lrexp.tasks import build, fit
from lrexp.tasks.sources import digits, hub
from tests.tasks.pictures import encoded, images, section, write_idx, write_npz, write_parquet


def sizes(task: Any) -> dict[str, int]:
    return {name: len(split) for name, split in task.splits.items()}


def test_the_digits_are_there_without_a_network_in_fixed_splits() -> None:
    one, two = (build.build(section(name="digits"), None, seed) for seed in (1, 2))
    assert sizes(one) == {"train": 1097, "validation": 200, "test": 500}
    assert (one.reported, one.selection, one.outputs.image_shape, one.outputs.num_labels) == (
        "test", "validation", (1, 8, 8), 10,
    )  # fmt: skip
    assert one.fingerprint == two.fingerprint == build.fingerprint(section(name="digits"))
    pixels = one.splits["train"].items[5]["pixels"]
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 8, 8)
    values = one.collate(list(one.splits["train"].items))["pixel_values"]
    assert abs(float(values.mean())) < 0.01 and abs(float(values.std()) - 1) < 0.01  # by the mean and std of the file


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    found, there = digits.read(build.check(section(name="digits"))), load_digits()
    assert np.array_equal(np.concatenate([rows.pixels[:, 0] for rows in found.splits.values()]), there.images)
    assert np.array_equal(np.concatenate([rows.labels for rows in found.splits.values()]), there.target)


def test_without_scikit_learn_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        build.fingerprint(section(name="digits"))


def test_pixels_are_scaled_and_normalised_by_channel(tmp_path: Path) -> None:
    arrays = images(20, channels=3)
    place = write_npz(tmp_path, train=arrays, validation=images(8, channels=3))
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 1.0]
    task = build.build(section(place, mean=mean, std=std), None, 1)
    batch = task.collate([task.splits["train"].items[i] for i in (3, 0)])
    expected = (arrays["image"][[3, 0]] / 255 - np.array(mean)) / np.array(std)
    assert batch["pixel_values"].dtype == torch.float32
    assert np.allclose(batch["pixel_values"].numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert batch["labels"].tolist() == [3, 0] and batch["row"].tolist() == [3, 0]


def test_files_of_all_kinds_hold_the_same_images(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    train, test = images(20), images(8)
    write_idx(tmp_path / "idx", "train", train)
    write_idx(tmp_path / "idx", "t10k", test, packed=False)
    places = [
        tmp_path / "idx",
        write_npz(tmp_path / "npz", train=train, test=test),
        write_parquet(tmp_path / "parquet", train=train, test=test),
    ]
    tasks = [build.build(section(place), None, 1) for place in places]
    assert sizes(tasks[0]) == {"train": 18, "validation": 2, "test": 8}
    for task in tasks[1:]:
        for name, split in tasks[0].splits.items():
            one, other = (t.collate(list(s.items)) for t, s in ((tasks[0], split), (task, task.splits[name])))
            assert all(torch.equal(one[key], other[key]) for key in one)
    assert len({task.fingerprint for task in tasks}) == 3  # the bytes of the files
    assert tasks[0].fingerprint == build.fingerprint(section(places[0], validation_fraction=0.3))


def test_t10k_alone_is_four_fifths_train(tmp_path: Path) -> None:
    arrays = images(50)
    write_idx(tmp_path, "t10k", arrays)
    task = build.build(section(tmp_path, name="mnist"), None, 1)
    assert sizes(task) == {"train": 36, "validation": 4, "test": 10}
    held = task.collate(list(task.splits["test"].items))
    assert held["labels"].tolist() == arrays["label"][40:].tolist()
    write_idx(tmp_path, "train", arrays)
    assert sizes(build.build(section(tmp_path, name="mnist"), None, 1)) == {"train": 45, "validation": 5, "test": 50}


def test_places_of_pixels_are_permuted_alike(tmp_path: Path) -> None:
    place = write_npz(tmp_path, train=images(20, channels=2), validation=images(8, channels=2))

    def batch(seed: int = 1, **keys: Any) -> Tensor:
        task = build.build(section(place, **keys), None, seed)
        return task.collate([task.splits["train"].items[i] for i in range(6)])["pixel_values"].flatten(2)

    plain, shuffled = batch(), batch(shuffle_pixels=True)
    assert not torch.equal(plain, shuffled)
    assert torch.equal(plain.sort(-1).values, shuffled.sort(-1).values)
    assert torch.equal(shuffled[:, 0], shuffled[:, 1])  # the channels are equal, and stay together
    assert torch.equal(shuffled, batch(seed=2, shuffle_pixels=True))
    moved = [int((plain[0, 0] == value).nonzero()[0]) for value in shuffled[0, 0]]  # not unique: by the first image
    assert sum(torch.equal(plain[:, 0, at], shuffled[:, 0, i]) for i, at in enumerate(moved)) > 40


def test_labels_are_dealt_anew_among_the_images_of_a_split(tmp_path: Path) -> None:
    place = write_npz(tmp_path, train=images(40), validation=images(8), test=images(12))
    plain, one, two = (
        build.build(section(place, shuffle_labels=shuffle), None, seed)
        for shuffle, seed in ((False, 1), (True, 1), (True, 2))
    )
    for name, split in plain.splits.items():
        labels = [[int(item["label"]) for item in task.splits[name].items] for task in (plain, one, two)]
        assert labels[0] != labels[1] == labels[2] and sorted(labels[0]) == sorted(labels[1]), split


def test_images_are_resized_to_what_a_model_takes(tmp_path: Path) -> None:
    place = write_npz(tmp_path, train=images(20), validation=images(8))
    task = build.build(section(place, image_size=16), None, 1)
    assert task.outputs.image_shape == (1, 16, 16)
    pixels = task.splits["train"].items[0]["pixels"]
    assert pixels.shape == (1, 8, 8)  # as stored
    half = build.build(section(place, image_size=4, mean=[0.0], std=[1.0]), None, 1)
    values = half.collate([half.splits["train"].items[0]])["pixel_values"]
    assert float(values.mean()) == pytest.approx(float(pixels.mean()) / 255, abs=0.05)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(logits=self.layer(pixel_values.flatten(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_and_metrics_are_those_of_every_image(tmp_path: Path, dtype: torch.dtype) -> None:
    task = build.build(section(write_npz(tmp_path, train=images(20), validation=images(8))), None, 1)
    with ambient(3):
        model = Linear().to(dtype)
    batch = task.collate(list(task.splits["validation"].items))
    logits = model(batch["pixel_values"].to(dtype)).logits
    wide = logits if dtype == torch.float64 else logits.float()
    reference = F.cross_entropy(wide, batch["labels"], reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), reference)
    assert task.targets(batch) == task.tokens(batch) == 8
    columns = task.predict(model, batch)
    assert set(columns) == {"row", "label", "prediction", "loss"}
    found = task.metrics(columns)
    assert found["accuracy"] == float((logits.argmax(-1) == batch["labels"]).float().mean())
    assert found["loss"] == pytest.approx(float(reference.detach()) / 8) and "accuracy_standard_error" in found


def test_images_that_a_model_does_not_take_are_refused(tmp_path: Path) -> None:
    task = build.build(section(write_npz(tmp_path, train=images(20), validation=images(8))), None, 1)
    fit.refuse_unfit(task, SimpleNamespace(num_channels=1, image_size=[8, 8], patch_size=4), "mine")
    for config, words in (
        ({"num_channels": 3}, "model=mine takes images with 3 channels, these data have 1"),
        ({"image_size": 224}, "224 x 224 pixels, these data have 8 x 8: dataset.image_size=224 resizes them"),
        ({"image_size": 8, "patch_size": 3}, "not cut into whole patches of 3 x 3"),
    ):
        with pytest.raises(InputError, match=words):
            fit.refuse_unfit(task, SimpleNamespace(**config), "mine")


def cut(name: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def idx(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / "train.npz").unlink()
        write_idx(folder, "train", images(20))
        change(folder)

    return spoil


def arrays(**change: Any) -> Callable[[Path], object]:
    return lambda folder: write_npz(folder, train=images(20) | change)


LABELS = "train-labels-idx1-ubyte.gz"
LONGER = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 21]) + bytes(21))
BAD: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "nothing there": (lambda folder: (folder / "train.npz").unlink(), {}, "holds no split"),
    "no path": (lambda folder: None, {"path": None}, "needs dataset.path=FOLDER or dataset.hub"),
    "cut short": (cut("train.npz"), {}, "not a whole .npz archive"),
    "no archive": (lambda folder: (folder / "train.npz").write_bytes(b"x" * 99), {}, "not a whole .npz archive"),
    "objects": (arrays(image=np.array([{}] * 20)), {}, "not a whole .npz archive of plain arrays"),
    "no such array": (lambda folder: None, {"image_column": "images"}, r"no array 'images' \(did you mean 'image'"),
    "floats": (arrays(image=np.zeros((20, 8, 8))), {}, "holds float64: pixels are bytes"),
    "flat": (arrays(image=np.zeros((20, 64), np.uint8)), {}, r"has the shape \(20, 64\)"),
    "other count": (arrays(label=np.zeros(19, int)), {}, r"for 20 images \(20,\) is needed"),
    "other size": (lambda f: write_npz(f, test={"image": np.zeros((4, 8, 9), np.uint8), "label": np.arange(4)}), {},
                   "8 x 9 with 1 channel, those of .*train.npz 8 x 8"),
    "label out of range": (lambda folder: write_npz(folder, test=images(9, classes=9)), {}, "row 5 has the label 4"),
    "gap": (arrays(label=np.arange(20) % 4 * 2), {}, "classes count from 0 without a gap"),
    "one class": (arrays(label=np.zeros(20, int)), {}, "two classes are needed"),
    "label of no name": (lambda folder: None, {"labels": ["a", "b"]}, "row 3 has the label 2.*0 to 1"),
    "idx cut short": (idx(cut("train-images-idx3-ubyte.gz")), {}, "not a whole gzip file"),
    "idx of another": (idx(lambda f: (f / LABELS).write_bytes(gzip.compress(b"\0\0\x0d\1"))), {}, "does not begin"),
    "idx too short": (idx(lambda f: (f / LABELS).write_bytes(gzip.compress(gzip.decompress(LONGER)[:-1]))), {},
                      "has 20 bytes of 21"),
    "idx of other counts": (idx(lambda f: (f / LABELS).write_bytes(LONGER)), {}, "20 images, .* 21 labels"),
    "idx without labels": (idx(lambda f: (f / LABELS).unlink()), {}, "one file of train-images and one"),
    "channels": (lambda folder: None, {"mean": [0.5] * 3, "std": [0.5] * 3}, "but the images have 1 channel:"),
    "mean without std": (lambda folder: None, {"mean": [0.5] * 3}, "mean has 3 numbers and std 1"),
    "std of zero": (lambda folder: None, {"std": [0.0]}, "std is 0.0"),
    "size of zero": (lambda folder: None, {"image_size": 0}, "image_size is 0"),
    "metric": (lambda folder: None, {"metrics": ["bleu"]}, "image_classification has accuracy, f1, matthews"),
    "digits elsewhere": (lambda folder: None, {"source": "digits"}, "source digits comes with scikit-learn"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    spoil, keys, words = BAD[name]
    write_npz(tmp_path, train=images(20))
    spoil(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        build.build(section(tmp_path) | keys, None, 1)
    assert "\n" not in str(caught.value)


def test_encoded_images_that_are_wrong(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    import pyarrow.parquet as pq

    table = encoded(images(6))
    column = table.column("image").to_pylist()
    larger = encoded({"image": np.zeros((1, 9, 9), np.uint8), "label": np.zeros(1, int)}).column("image").to_pylist()
    for row, words in (
        ({"bytes": column[2]["bytes"][:40], "path": None}, "row 3 is not a whole image"),
        ({"bytes": None, "path": "x.png"}, "row 3 has nothing in column 'image'"),
        (larger[0], "row 3 has an image of 9 x 9 with 1 channel, row 1 of 8 x 8"),
    ):
        spoilt = pa.array([*column[:2], row, *column[3:]], table.schema.field("image").type)
        pq.write_table(table.set_column(0, "image", spoilt), tmp_path / "train.parquet")
        with pytest.raises(InputError, match=words):
            build.build(section(tmp_path), None, 1)
    pq.write_table(table.set_column(0, "image", pa.array(range(6))), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="holds int64, not images"):
        build.build(section(tmp_path), None, 1)


def fill_cache(place: Path) -> None:
    """What `datasets` leaves behind after it has prepared MNIST."""
    from datasets import ClassLabel, DatasetInfo, Features, Image

    folder = place / "ylecun___mnist" / "mnist" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    features = Features({"image": Image(), "label": ClassLabel(names=list("0123"))})
    counts = {"train": 20, "test": 8}
    for split, count in counts.items():
        table = encoded(images(count)).cast(features.arrow_schema)
        with pa.ipc.new_stream(str(folder / f"mnist-{split}.arrow"), table.schema) as sink:
            sink.write_table(table)
    splits = {name: {"name": name, "num_examples": count, "dataset_name": "mnist"} for name, count in counts.items()}
    info = DatasetInfo(
        features=features, builder_name="parquet", dataset_name="mnist", config_name="mnist", version="0.0.0",
        splits=splits,
    )  # fmt: skip
    info.write_to_directory(str(folder))


def test_the_hub_s_cache_is_read_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    hub.hub_tables.cache_clear()
    with pytest.raises(InputError, match=r"ylecun/mnist mnist is not in the cache .*lrexp fetch dataset=mnist"):
        build.fingerprint(section(name="mnist"))
    fill_cache(tmp_path)
    task = build.build(section(name="mnist"), None, 1)
    assert sizes(task) == {"train": 18, "validation": 2, "test": 8}
    assert task.fingerprint == build.fingerprint(section(name="mnist", image_size=4))
    hub.hub_tables.cache_clear()
