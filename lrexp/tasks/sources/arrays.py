"""Images in a NumPy archive: an array of bytes and one of labels, by name. No pickles."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np

from lrexp.spec.convert import nearest
from lrexp.spec.errors import InputError
from lrexp.tasks.images import ImageData
from lrexp.tasks.sources.pixels import Images

_DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError)  # what NumPy ends with, by what is wrong


def read(content: bytes, where: str, data: ImageData) -> Images:
    """The images (n, height, width) or (n, height, width, channels) and labels (n,) of one file.

    Raises:
        InputError: damaged or cut short, an array missing, of another type or shape, unequal counts.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            there = list(archive)
            for name, key in ((data.image_column, "image_column"), (data.label_column, "label_column")):
                if name not in there:
                    near = nearest(name, there)
                    hint = f" ({near})" if near else ""
                    raise InputError(
                        f"{where} has no array '{name}'{hint}. Its arrays: {', '.join(there)}; dataset.{key} says "
                        "which is read"
                    )
            pixels, labels = archive[data.image_column], archive[data.label_column]
    except InputError:
        raise
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        said = " ".join(str(error).split())[:100]
        raise InputError(f"{where} is not a whole .npz archive of plain arrays; cut short? ({said})") from None
    return Images(where, _pixels(pixels, where, data.image_column), _labels(labels, len(pixels), where, data))


def _pixels(found: np.ndarray, where: str, name: str) -> np.ndarray:
    """(images, channels, height, width)."""
    if found.dtype != np.uint8:
        raise InputError(f"{where}: '{name}' holds {found.dtype}: pixels are bytes (uint8), 0 to 255")
    if found.ndim == 3:
        found = found[..., None]
    if found.ndim != 4 or 0 in found.shape or found.shape[3] > 4:
        raise InputError(
            f"{where}: '{name}' has the shape {found.shape}: (images, height, width) or (images, height, width, "
            "channels) with at most 4 channels is read"
        )
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2))


def _labels(found: np.ndarray, count: int, where: str, data: ImageData) -> np.ndarray:
    """(images,) int64, float64 or object (text)."""
    name = data.label_column
    if found.shape not in ((count,), (count, 1)):
        raise InputError(f"{where}: '{name}' has the shape {found.shape}, for {count} images ({count},) is needed")
    if found.dtype.kind not in "biufU":
        raise InputError(f"{where}: '{name}' holds {found.dtype}, not numbers or text")
    kind = {"f": np.float64, "U": object}.get(found.dtype.kind, np.int64)
    return found.reshape(count).astype(kind)
