"""Documents to sequences of tokens: packed into blocks of equal length, or one document a sequence.

Every token knows how many bytes of the text it stands for, so that a loss can be given per byte, whatever the
tokenizer. A document ends with the tokenizer's end-of-text token, which stands for none.

A long document is given to the tokenizer in pieces cut at line ends, since a tokenizer keeps some two hundred bytes for
every byte of a text until it is through: only the tokens just beside a cut may be others than those of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from lrexp.spec.errors import InputError
from lrexp.tasks.encode import Encoded

PIECE = 100_000  # characters of a document that are tokenized as one text
_BATCH = 500_000  # characters given to the tokenizer at once, or a piece more
_FEWEST = 2  # tokens of a sequence: the first is predicted from nothing, so a single one is no target


class Sequencing(Protocol):
    """What a dataset section says of sequences."""

    @property
    def packing(self) -> bool: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102


class Piece(NamedTuple):
    """A part of a document; `ends` says that it is the last."""

    document: int
    text: str
    ends: bool


def encode(documents: Sequence[str], tokenizer: Any, data: Sequencing, where: str) -> Encoded:
    """Sequences of at most `data.max_length` tokens with "input_ids" and "bytes" (of each token), both int32.

    Packed, documents follow one another in blocks of just that length and the rest is dropped; else each document is a
    sequence of its own, cut at that length, and one with fewer than two tokens (an empty text) is dropped. `row` is the
    block or the document, counted as read. Raises InputError where nothing comes of them.
    """
    ids, sizes, lengths = tokenized(documents, tokenizer)
    if not data.packing:
        found = singles(ids, sizes, lengths, data.max_length)
        if len(found) == 0:
            raise InputError(f"{where}: no document has a token to predict: all {len(lengths)} of its texts are empty")
        return found
    count = len(ids) // data.max_length
    if count == 0:
        raise InputError(f"{where} has {len(ids)} tokens, fewer than one block of dataset.max_length")
    rows = np.arange(count, dtype=np.int64)
    offsets = np.arange(count + 1, dtype=np.int64) * data.max_length
    tokens = {"input_ids": ids[: offsets[-1]], "bytes": sizes[: offsets[-1]]}
    return Encoded(tokens, offsets, np.zeros(count, np.int64), rows, rows)


def pieces(documents: Iterable[str]) -> Iterator[Piece]:
    """The documents one after the other, each cut after line ends into texts of at most PIECE characters.

    A line that is longer is cut before a blank or, where it has none, anywhere.
    """
    for document, text in enumerate(documents):
        cuts = [0]
        while len(text) - cuts[-1] > PIECE:
            cuts.append(_cut(text, cuts[-1]))
        for start, end in pairwise([*cuts, len(text)]):
            yield Piece(document, text[start:end], end == len(text))


def byte_sizes(text: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Bytes of UTF-8 that each token stands for, (tokens,) int32, from its span of characters.

    What lies between two spans (blanks that a tokenizer drops) counts with the later one, and a character that several
    tokens share counts once, so that the sizes add up to the text as far as the last token.
    """
    if not spans:
        return np.zeros(0, np.int32)
    until = np.concatenate([[0], np.cumsum(_widths(text))])  # bytes before each character
    ends = until[np.array([end for _, end in spans], np.int64)]
    return np.diff(np.maximum.accumulate(ends), prepend=0).astype(np.int32)


def singles(ids: np.ndarray, sizes: np.ndarray, lengths: np.ndarray, most: int) -> Encoded:
    """Each document as a sequence of at most so many tokens, without those that have no target.

    The arguments are what `tokenized` gives.
    """
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(ids)) - np.repeat(starts, lengths)  # of each token in its document
    rows = np.flatnonzero(lengths >= _FEWEST)
    kept = (place < most) & np.repeat(lengths >= _FEWEST, lengths)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths[rows], most))]).astype(np.int64)
    tokens = {"input_ids": ids[kept], "bytes": sizes[kept]}
    return Encoded(tokens, offsets, np.zeros(len(rows), np.int64), rows, np.arange(len(rows)))


def tokenized(documents: Sequence[str], tokenizer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All tokens one after the other, the bytes of each, both int32, and how many belong to each document, int64."""
    ids: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    lengths = np.zeros(len(documents), np.int64)
    left = 0  # bytes at the end of the last piece that no token of it stands for
    for batch in _batches(pieces(documents)):
        texts = [piece.text for piece in batch]
        encoded = tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        for piece, tokens, spans in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            own, left = _with_left(byte_sizes(piece.text, spans), left, piece.text)
            if piece.ends:
                tokens, own, left = [*tokens, tokenizer.eos_token_id], np.append(own, np.int32(0)), 0
            ids.append(np.asarray(tokens, np.int32))
            sizes.append(own)
            lengths[piece.document] += len(tokens)
    return np.concatenate(ids), np.concatenate(sizes), lengths


def _with_left(sizes: np.ndarray, left: int, text: str) -> tuple[np.ndarray, int]:
    """The sizes with what an earlier piece left over added to the first, and what this piece leaves over."""
    over = int(_widths(text).sum()) - int(sizes.sum())
    if len(sizes) == 0:
        return sizes, left + over
    sizes[0] += left
    return sizes, over


def _batches(found: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    characters = 0
    for piece in found:
        batch.append(piece)
        characters += len(piece.text) + 1  # an empty text takes its room too
        if characters >= _BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _cut(text: str, start: int) -> int:
    """Where the piece that starts here ends."""
    end = start + PIECE
    line = text.rfind("\n", start, end)
    if line >= start:
        return line + 1
    blank = text.rfind(" ", start + 1, end)
    return end if blank < 0 else blank


def _widths(text: str) -> np.ndarray:
    """Bytes of UTF-8 of each character, (characters,) int64."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
