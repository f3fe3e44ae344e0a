"""The embedded images: 1,797 handwritten digits of 8 x 8 pixels with 17 shades, which come with scikit-learn.

Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, its test part. In the order of the file the
first 1,097 are train, the next 200 validation, the last 500 test: nothing is shuffled, since neighbours may be by one
hand.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.spec.errors import InputError
from lrexp.tasks.images import ImageData

if TYPE_CHECKING:
    from lrexp.tasks.sources.pixels import Pictures

FILE = "datasets/data/digits.csv.gz"  # read without the package, whose import takes two seconds
LARGEST = 16.0
SIDE = 8
SPLITS = {"train": slice(0, 1097), "validation": slice(1097, 1297), "test": slice(1297, 1797)}
NAMES = tuple(map(str, range(10)))


def fingerprint(data: ImageData) -> str:
    """Hash of the file's numbers. Raises InputError where scikit-learn is not there."""
    return hashlib.sha256(_content()).hexdigest()


def read(data: ImageData) -> Pictures:
    """All three splits. Raises InputError where scikit-learn is not there or its file is damaged."""
    import numpy as np

    from lrexp.tasks.sources.pixels import Pictures, Rows

    if data.labels not in (None, NAMES):
        raise InputError("dataset=digits has the labels 0 to 9: set dataset.labels=null")
    rows = np.array([[float(value) for value in row] for row in csv.reader(io.StringIO(_content().decode()))])
    pixels = rows[:, :-1].astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
    labels = rows[:, -1].astype(np.int64)
    return Pictures({name: Rows(pixels[part], labels[part]) for name, part in SPLITS.items()}, NAMES, LARGEST)


def _content() -> bytes:
    found = importlib.util.find_spec("sklearn")
    file = Path(found.origin).parent / FILE if found is not None and found.origin else None
    if file is None or not file.is_file():
        raise InputError("dataset=digits is read from scikit-learn, which is not there: pip install scikit-learn")
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: damaged ({error}): pip install --force-reinstall scikit-learn") from None
