"""Small images whose class can be seen, and the files that hold them."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrexp.spec.choices import choice

SIDE = 8


def images(count: int, channels: int | None = None, classes: int = 4, start: int = 0) -> dict[str, np.ndarray]:
    """Images (count, 8, 8[, channels]) with one bright row, which is twice the label, on dark noise."""
    draw = np.random.Generator(np.random.PCG64(start + count))
    labels = np.arange(start, start + count) % classes
    pixels = draw.integers(0, 100, (count, SIDE, SIDE), np.uint8)
    pixels[np.arange(count), 2 * labels % SIDE] = 250
    if channels is not None:
        pixels = np.repeat(pixels[..., None], channels, 3)
    return {"image": pixels, "label": labels}


def write_npz(folder: Path, **splits: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in splits.items():
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return folder


def write_idx(folder: Path, part: str, arrays: dict[str, np.ndarray], packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{part}-images-idx3-ubyte", arrays["image"]), (f"{part}-labels-idx1-ubyte", arrays["label"])):
        content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        content += array.astype(np.uint8).tobytes()
        (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)


def encoded(arrays: dict[str, np.ndarray]) -> pa.Table:
    """The images as `datasets` stores them: PNG in a struct. Needs Pillow."""
    from PIL import Image

    rows = []
    for pixels, label in zip(arrays["image"], arrays["label"], strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": int(label)})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.Table.from_pylist(rows, pa.schema({"image": kind, "label": pa.int64()}))


def write_parquet(folder: Path, **splits: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in splits.items():
        pq.write_table(encoded(arrays), folder / f"{name}.parquet")
    return folder


def section(path: Path | str | None = None, **keys: Any) -> dict[str, Any]:
    """The section of `dataset=images`, or of another choice by name."""
    name = keys.pop("name", "images")
    found = dict(choice("dataset", name).values)
    return found | ({"path": str(path)} if path else {}) | keys
