"""Which files of a path hold which split, and a hash of what is in them."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from lrexp.spec.errors import InputError

SUFFIXES = (".parquet", ".jsonl", ".csv")
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_SHOWN = 300  # characters of a path in a message
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")

Names = Mapping[str, tuple[str, ...]]


def split_files(
    path: str, names: Names = SPLIT_NAMES, suffixes: tuple[str, ...] = SUFFIXES, key: str = "dataset.path"
) -> dict[str, tuple[Path, ...]]:
    """The files of each split: of a folder those named as in `names` (or shards of such), a single file is train.

    Raises:
        InputError, beginning with `key`: nothing there, nothing of a known kind, no train split, two files for one
            split, a missing shard.
    """
    place = Path(path).expanduser()
    shown = path if path.isprintable() and len(path) <= _SHOWN else f"{path[:_SHOWN]!r}"
    try:
        if place.is_dir():
            return _of_folder(place, names, suffixes, key)
        if not place.exists():
            raise InputError(f"{key}: {shown} does not exist")
    except OSError as error:
        raise InputError(f"{key}: {shown} cannot be read ({reason(error)})") from None
    if place.suffix.lower() not in suffixes or not place.is_file():
        raise InputError(f"{key}: {shown} is no folder and no {', '.join(suffixes)} file")
    return {"train": (place,)}


def _of_folder(folder: Path, names: Names, suffixes: tuple[str, ...], key: str) -> dict[str, tuple[Path, ...]]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and not file.is_dir())
    found = {split: _of_split(files, split, accepted, key) for split, accepted in names.items()}
    found = {split: chosen for split, chosen in found.items() if chosen}
    accepted = ", ".join(name for group in names.values() for name in group)
    if not found:
        raise InputError(f"{key}: {folder} holds no split: files named {accepted} with {', '.join(suffixes)} are read")
    if "train" not in found:
        there = ", ".join(file.name for chosen in found.values() for file in chosen)
        wanted = " or ".join(f"train{suffix}" for suffix in suffixes)
        raise InputError(f"{key}: {folder} has no train split ({wanted}), only {there}")
    return found


def _of_split(files: list[Path], split: str, accepted: tuple[str, ...], key: str) -> tuple[Path, ...]:
    groups: dict[str, list[tuple[Path, int]]] = {}
    for file in files:
        shard = _SHARD.fullmatch(file.stem)
        stem = shard[1] if shard else file.stem
        if stem.lower() in accepted:
            groups.setdefault(f"{stem}{file.suffix}", []).append((file, int(shard[3]) if shard else 1))
    if len(groups) > 1 or any(count == 1 for group in groups.values() if len(group) > 1 for _, count in group):
        there = ", ".join(file.name for group in groups.values() for file, _ in group)
        raise InputError(f"{key}: {files[0].parent} has more than one {split} split: {there}")
    for group in groups.values():
        if {count for _, count in group} != {len(group)}:
            raise InputError(f"{key}: {group[0][0].parent} has {len(group)} of {group[0][1]} parts of {split}")
        return tuple(file for file, _ in group)
    return ()


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises InputError where it cannot be read or is empty."""
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a regular file")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)})") from None
    if not content.strip():
        raise InputError(f"{path} is empty")
    return content


def decoded(content: bytes, where: str) -> str:
    """The text of a file. Raises InputError where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{where}: line {line} is not UTF-8 text") from None


def content_hash(files: Mapping[str, tuple[Path, ...]]) -> str:
    """sha256 over splits, kinds of file and bytes: the same wherever the files lie."""
    digest = hashlib.sha256()
    for split, paths in sorted(files.items()):
        for path in paths:
            content = hashlib.sha256(read_bytes(path)).hexdigest()
            digest.update(f"{split}\0{path.suffix.lower()}\0{content}\n".encode())
    return digest.hexdigest()


def reason(error: OSError) -> str:
    """What the system says of an error, on one line."""
    return " ".join(str(error.strerror or error).split())
