"""Running text in a person's own files: `dataset=text dataset.path=FILE or FOLDER`.

A folder's splits are named as for labelled texts; .txt files are read beside .parquet, .jsonl and .csv. A .txt file is
one document; elsewhere each row of `text_column` is one.
"""

from pathlib import Path

from lrexp.spec.errors import InputError
from lrexp.tasks.language import LanguageData
from lrexp.tasks.sources import files

SUFFIXES = (*files.SUFFIXES, ".txt")


def fingerprint(data: LanguageData) -> str:
    """Hash of the bytes of the files that are read."""
    return files.content_hash(_files(data))


def read(data: LanguageData) -> dict[str, list[str]]:
    """Documents by split. Raises InputError naming the file and the row or the column."""
    found: dict[str, list[str]] = {}
    for split, paths in _files(data).items():
        found[split] = [text for path in paths for text in _texts(path, data)]
    return found


def _texts(path: Path, data: LanguageData) -> list[str]:
    if path.suffix.lower() == ".txt":
        return [files.decoded(files.read_bytes(path), str(path))]
    from lrexp.tasks.sources.columns import read_texts  # pyarrow: not needed for the fingerprint

    return read_texts(path, {data.text_column: "text_column"})[data.text_column]


def _files(data: LanguageData) -> dict[str, tuple[Path, ...]]:
    if not data.path:
        raise InputError(f"dataset={data.name} needs dataset.path=FILE or FOLDER ({', '.join(SUFFIXES)})")
    return files.split_files(data.path, suffixes=SUFFIXES)
