"""Text in many files of JSON lines, one document each, read as far as it is needed: C4 on the hub, or a folder like it.

On the hub it is C4's `en`: 1024 files for train, 8 for validation, downloaded one by one when a run comes to them. In a
folder the files of a split have its name in theirs (c4-train.00000-of-01024.json.gz); endings are .json, .jsonl and
both with .gz.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from lrexp.spec.errors import InputError
from lrexp.tasks.sources.files import reason
from lrexp.tasks.streamed import StreamedData

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
HUB_SHARDS = {"train": 1024, "validation": 8}
WHOLE = 64_000_000  # bytes up to which a file is hashed whole
_END = 1_000_000  # bytes that are hashed at either end of a larger one; a .gz ends with a checksum of all
_NAMES = {"train": "train", "validation": "validation|valid|val|dev"}

Shard = Callable[[], Path]  # gives the file, fetched if need be


def fingerprint(data: StreamedData) -> str:
    """Hash of sizes and contents of a folder's files (large ones by both ends), or of the name of what the hub has."""
    digest = hashlib.sha256()
    if not data.path:
        digest.update(f"{data.hub}\0en\0{data.revision}".encode())
        return digest.hexdigest()
    for split in _NAMES:
        for file in _files(data.path, split):
            try:
                digest.update(f"{split}\0{_ending(file)}\0{file.stat().st_size}\0".encode())
                digest.update(_sample(file))
            except OSError as error:
                raise InputError(f"{file} cannot be read ({reason(error)})") from None
    return digest.hexdigest()


def shards(data: StreamedData, split: str) -> list[Shard]:
    """The files of a split in the order of their names. Raises InputError where there are none."""
    if data.path:
        return [partial(Path, file) for file in _files(data.path, split)]
    if not data.hub:
        raise InputError(f"dataset={data.name} needs dataset.path=FOLDER or dataset.hub=OWNER/NAME")
    count = HUB_SHARDS[split]
    return [partial(_fetched, data, f"en/c4-{split}.{i:05d}-of-{count:05d}.json.gz") for i in range(count)]


def size(data: StreamedData) -> int:
    """Bytes of a folder's files for train."""
    return sum(file.stat().st_size for file in _files(data.path or "", "train"))


def documents(file: Path, column: str, skipped: int) -> Iterator[tuple[int, str]]:
    """Documents from line number `skipped` on, each with the number of its line; empty ones are passed over.

    Raises:
        InputError: a file that is cut short, a line that is no JSON object or has no text in the column.
    """
    number = 0
    try:
        with _opened(file) as stream:
            for number, line in enumerate(stream):
                if number >= skipped and line.strip():
                    text = _text(line, column, file, number)
                    if text.strip():
                        yield number, text
    except (OSError, EOFError, zlib.error) as error:
        said = reason(error) if isinstance(error, OSError) else "cut short?"
        raise InputError(f"{file} cannot be read beyond line {number + 1} ({said})") from None


def _text(line: bytes, column: str, file: Path, number: int) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{file}: line {number + 1} is not a JSON object; cut short?")
    text = row.get(column)
    if not isinstance(text, str):
        raise InputError(f"{file}: line {number + 1} has no text in '{column}'; dataset.text_column says which is read")
    return text.encode("utf-8", "replace").decode()  # JSON can spell half of a surrogate pair


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _files(path: str, split: str) -> list[Path]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"dataset.path: {path} is no folder of {', '.join(SUFFIXES)} files")
    named = re.compile(rf"(^|[^a-z])({_NAMES[split]})([^a-z]|$)")
    try:
        there = sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise InputError(f"dataset.path: {path} cannot be read ({reason(error)})") from None
    found = [file for file in there if file.name.endswith(SUFFIXES) and named.search(file.name)]
    if not found:
        raise InputError(f"dataset.path: {path} has no file with '{split}' in its name ({', '.join(SUFFIXES)})")
    return found


def _ending(file: Path) -> str:
    return next(ending for ending in reversed(SUFFIXES) if file.name.endswith(ending))


def _sample(file: Path) -> bytes:
    with file.open("rb") as stream:
        if file.stat().st_size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").digest()
        start = stream.read(_END)
        stream.seek(-_END, 2)
        return hashlib.sha256(start + stream.read()).digest()


def _fetched(data: StreamedData, name: str) -> Path:
    """A file of the hub, from its cache or downloaded into it. Raises InputError where neither can be."""
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from lrexp.models.hub import PROBE_SECONDS, ask, quiet, why

    get = partial(hf_hub_download, data.hub or "", name, repo_type="dataset", revision=data.revision)
    try:
        return Path(get(local_files_only=True))
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            raise _not_there(data, name, "HF_HUB_OFFLINE is set") from None
    with quiet():
        try:
            ask(lambda: HfApi().dataset_info(data.hub or "", timeout=PROBE_SECONDS), PROBE_SECONDS)
            return Path(get())
        except Exception as error:  # transport, hub and disk errors have no common type; all mean: not to be had
            raise _not_there(data, name, why(error)) from None


def _not_there(data: StreamedData, name: str, said: str) -> InputError:
    return InputError(
        f"{name} of {data.hub} is not in the cache and cannot be fetched ({said}): run `lrexp fetch` with the words of "
        "the run where there is a network, or give a folder of such files with dataset.path=DIR"
    )
