"""Images with a label: from a person's own files (`dataset.path`), or from the Hugging Face hub or its cache.

A folder's splits are the files train, validation (or valid, val, dev) and test with the ending .npz or .parquet, or
parts of such; a single file of any name is train. A folder of MNIST's own files (idx: train-images-idx3-ubyte and so
on, packed by gzip or not) has train and, as t10k, test. If it holds t10k alone, the first four fifths of its images are
train and the rest is test.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.spec.errors import InputError
from lrexp.tasks.images import ImageData
from lrexp.tasks.sources import files, idx

if TYPE_CHECKING:
    import pyarrow as pa

    from lrexp.tasks.sources.pixels import Images, Pictures

SUFFIXES = (".npz", ".parquet")


def fingerprint(data: ImageData) -> str:
    """Hash of the bytes of the local copy, or of the images and labels that the hub gave."""
    if data.path:
        return files.content_hash(idx.split_files(data.path) or files.split_files(data.path, suffixes=SUFFIXES))
    from lrexp.tasks.sources.arrow_images import update

    digest = hashlib.sha256()
    for split, table in sorted(_tables(data).items()):
        digest.update(f"{split}\0{table.num_rows}\n".encode())
        update(digest, table, f"{data.hub} {split}", data)
    return digest.hexdigest()


def read(data: ImageData) -> Pictures:
    """All splits, every image decoded and every label checked.

    Raises:
        InputError: a damaged local copy; neither a cached copy nor a hub that answers.
    """
    from lrexp.tasks.sources.pixels import pictures

    if not data.path:
        from lrexp.tasks.sources.arrow_images import from_arrow

        tables = _tables(data)
        return pictures({name: [from_arrow(t, f"{data.hub} {name}", data)] for name, t in tables.items()}, data)
    of_mnist = idx.split_files(data.path)
    if of_mnist:
        return pictures(idx.read(of_mnist), data)
    found = files.split_files(data.path, suffixes=SUFFIXES)
    return pictures({name: [_read_file(path, data) for path in paths] for name, paths in found.items()}, data)


def _read_file(path: Path, data: ImageData) -> Images:
    from lrexp.tasks.sources import arrays, arrow_images
    from lrexp.tasks.sources.columns import parquet

    content = files.read_bytes(path)
    if path.suffix.lower() == ".npz":
        return arrays.read(content, str(path), data)
    return arrow_images.from_arrow(parquet(content, str(path), arrow_images.wanted(data)), str(path), data)


def _tables(data: ImageData) -> dict[str, pa.Table]:
    """The splits of the data set on the hub."""
    if not data.hub:
        raise InputError(f"dataset={data.name} needs dataset.path=FOLDER or dataset.hub=OWNER/NAME")
    from lrexp.tasks.sources.hub import hub_tables

    there = hub_tables(data.hub, data.hub_config, data.name)
    chosen = {
        split: next((name for name in names if name in there), None) for split, names in files.SPLIT_NAMES.items()
    }
    if not chosen["train"]:
        raise InputError(f"the data set {data.hub} has no train split, only {', '.join(there)}")
    return {split: there[name] for split, name in chosen.items() if name}
