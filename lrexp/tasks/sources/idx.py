"""MNIST's own files: a header of big-endian numbers, then bytes (yann.lecun.com/exdb/mnist). Also of its kin."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.spec.errors import InputError
from lrexp.tasks.sources.files import read_bytes, reason

if TYPE_CHECKING:  # a fingerprint needs neither
    import numpy as np

    from lrexp.tasks.sources.pixels import Images

NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
SPLITS = {"train": "train", "t10k": "test"}
TRAINED = 4 / 5  # of t10k, where it is all there is
Files = Mapping[str, tuple[Path, ...]]


def split_files(path: str) -> dict[str, tuple[Path, ...]]:
    """The file of the images and that of the labels of each split, {} where the path is no folder of such files.

    t10k alone is the split "train". Raises InputError where one of the two is missing or there twice.
    """
    folder = Path(path).expanduser()
    try:
        names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"dataset.path: {folder} cannot be read ({reason(error)})") from None
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    found: dict[str, tuple[Path, ...]] = {}
    for part in SPLITS:
        pair = [[m[0] for m in matches if (m[1], m[2]) == (part, what)] for what in ("images", "labels")]
        if not any(pair):
            continue
        if [len(names) for names in pair] != [1, 1]:
            there = ", ".join(name for names in pair for name in names)
            raise InputError(f"dataset.path: {folder} has {there}: one file of {part}-images and one of {part}-labels")
        found[part] = tuple(folder / names[0] for names in pair)
    if len(found) == 1:
        return {"train": next(iter(found.values()))}
    return {SPLITS[part]: pair for part, pair in found.items()}


def read(files: Files) -> dict[str, list[Images]]:
    """The images of each split. Raises InputError for a file that is damaged or cut short, and for unequal counts."""
    found = {split: [_pair(*paths)] for split, paths in files.items()}
    if list(found) != ["train"] or not files["train"][0].name.startswith("t10k"):
        return found
    whole = found["train"][0]
    count = int(len(whole.labels) * TRAINED)
    return {"train": [_part(whole, slice(count))], "test": [_part(whole, slice(count, None))]}


def _part(images: Images, which: slice) -> Images:
    from dataclasses import replace

    return replace(images, pixels=images.pixels[which], labels=images.labels[which])


def _pair(images: Path, labels: Path) -> Images:
    import numpy as np

    from lrexp.tasks.sources.pixels import Images

    pixels, classes = _array(images, 3), _array(labels, 1)
    if len(pixels) != len(classes):
        raise InputError(f"{images} has {len(pixels)} images, {labels} {len(classes)} labels")
    return Images(str(images), pixels[:, None], classes.astype(np.int64))


def _array(path: Path, dimensions: int) -> np.ndarray:
    import numpy as np

    content = read_bytes(path)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise InputError(f"{path} is not a whole gzip file; cut short?") from None
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):  # 8: unsigned bytes
        raise InputError(f"{path} does not begin as an idx file of bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    size = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != size or size == 0:
        raise InputError(f"{path} has {len(content) - start} bytes of {' x '.join(map(str, shape))}; cut short?")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
