"""Images in a column of a Parquet file or of the hub's tables: PNG, JPEG and their like, as `datasets` stores them."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pyarrow as pa

from lrexp.spec.errors import InputError
from lrexp.tasks.images import ImageData
from lrexp.tasks.sources.columns import check_columns, refuse_null
from lrexp.tasks.sources.pixels import Images, shown
from lrexp.tasks.sources.reading import arrow_labels

_CHUNK = 4096  # images at once
_GREY = ("1", "L")  # Pillow's modes of one channel


def wanted(data: ImageData) -> dict[str, str]:
    """The columns that are read, and the key that names each."""
    return {data.image_column: "image_column", data.label_column: "label_column"}


def from_arrow(table: pa.Table, where: str, data: ImageData) -> Images:
    """The images and labels of a table: grey where the first image is, else red, green and blue.

    Raises:
        InputError: a column missing or of another type, an image that is null, damaged or of another size.
    """
    check_columns(table.column_names, where, wanted(data))
    if table.num_rows == 0:
        raise InputError(f"{where} has no rows")
    labels = table.column(data.label_column)
    refuse_null(labels, data.label_column, where)
    found: np.ndarray | None = None
    for row, encoded in enumerate(_encoded(table, where, data)):
        image = _decoded(encoded, f"{where}: row {row + 1}", None if found is None else found.shape[1] == 1)
        if found is None:
            found = np.empty((table.num_rows, *image.shape), np.uint8)
        elif image.shape != found.shape[1:]:
            raise InputError(
                f"{where}: row {row + 1} has an image of {shown(image.shape)}, row 1 of {shown(found.shape[1:])}: "
                "all have to be alike"
            )
        found[row] = image
    assert found is not None
    return Images(where, found, arrow_labels(labels, where, data))


def update(digest: Any, table: pa.Table, where: str, data: ImageData) -> None:
    """Feeds a hash with the encoded images and the labels of a table. Raises InputError as `from_arrow`."""
    check_columns(table.column_names, where, wanted(data))
    for encoded in _encoded(table, where, data):
        digest.update(f"{len(encoded)}\0".encode() + encoded)
    digest.update(repr(table.column(data.label_column).to_pylist()).encode())


def _encoded(table: pa.Table, where: str, data: ImageData) -> Any:
    """The bytes of each image file in turn."""
    column = table.column(data.image_column)
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks], kind.field("bytes").type)
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise InputError(f"{where}: column '{data.image_column}' holds {kind}, not images")
    refuse_null(column, data.image_column, where)
    for start in range(0, len(column), _CHUNK):
        yield from column.slice(start, _CHUNK).to_pylist()


def _decoded(encoded: bytes, where: str, grey: bool | None) -> np.ndarray:
    """An image as (channels, height, width) uint8; `grey` None is as it comes."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError("images in PNG or JPEG need Pillow, which is not there: pip install pillow") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an image of a size that only an attack has
            image = Image.open(io.BytesIO(encoded))
            is_grey = image.mode in _GREY if grey is None else grey
            pixels = np.asarray(image.convert("L" if is_grey else "RGB"))
    except Exception as error:  # Pillow's decoders have no common type of errors
        said = " ".join(str(error).split())[:80]
        raise InputError(f"{where} is not a whole image; cut short? ({said})") from None
    return pixels[None] if is_grey else pixels.transpose(2, 0, 1)
