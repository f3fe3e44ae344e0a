"""The embedded corpus: the standard library's own source files as documents, split by module as docmatch is."""

import hashlib

from lrexp.tasks.language import LanguageData
from lrexp.tasks.sources.stdlib import SPLITS, modules, read_source, split_of

FORMAT = 1  # raised whenever the documents made from the same sources change


def fingerprint(data: LanguageData) -> str:
    """Hash of the files that are read. Raises InputError where this Python has no sources."""
    digest = hashlib.sha256(f"stdlib text {FORMAT}".encode())
    for module in modules():
        for path in module.paths:
            digest.update(f"\0{module.name}/{path.name}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read(data: LanguageData) -> dict[str, list[str]]:
    """Documents by split: one source file each, in the order of their modules' names."""
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for module in modules():
        texts = [text for path in module.paths if (text := read_source(path)).strip()]
        found[split_of(module.name)] += texts
    return found


def held_out(count: int, characters: int) -> list[str]:
    """The beginnings of `count` source files spread over those of the test split: a fixed text, English and code.

    Raises InputError where this Python has no sources.
    """
    paths = [path for module in modules() if split_of(module.name) == "test" for path in module.paths]
    texts = [text for path in paths if (text := read_source(path)[:characters]).strip()]
    taken = min(count, len(texts))
    return [texts[i * len(texts) // taken] for i in range(taken)]
