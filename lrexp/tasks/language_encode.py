"""Documents to sequences of tokens: packed into blocks of equal length, or one document a sequence.

Every token knows how many bytes of the text it stands for, so that a loss can be given per byte, whatever the
tokenizer. A document ends with the tokenizer's end-of-text token, which stands for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrexp.spec.errors import InputError
from lrexp.tasks.encode import Encoded
from lrexp.tasks.language import LanguageData

_CHUNK = 512  # documents given to the tokenizer at once


def encode(documents: Sequence[str], tokenizer: Any, data: LanguageData, where: str) -> Encoded:
    """Sequences of at most `data.max_length` tokens with "input_ids" and "bytes" (of each token), both int32.

    Packed, documents follow one another in blocks of just that length and the rest is dropped; else each document is a
    sequence of its own, cut at that length. `row` is the block or the document. Raises InputError where nothing comes
    of them.
    """
    ids, sizes, lengths = _tokens(documents, tokenizer, data)
    if data.packing:
        count = len(ids) // data.max_length
        if count == 0:
            raise InputError(f"{where} has {len(ids)} tokens, fewer than one block of dataset.max_length")
        offsets = np.arange(count + 1, dtype=np.int64) * data.max_length
        tokens = {"input_ids": ids[: offsets[-1]], "bytes": sizes[: offsets[-1]]}
    else:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = {"input_ids": ids, "bytes": sizes}
    rows = np.arange(len(offsets) - 1, dtype=np.int64)
    return Encoded(tokens, offsets, np.zeros(len(rows), np.int64), rows, rows)


def _tokens(documents: Sequence[str], tokenizer: Any, data: LanguageData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All tokens one after the other, the bytes of each, and how many belong to each document."""
    ids: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    lengths: list[int] = []
    most = None if data.packing else data.max_length
    for start in range(0, len(documents), _CHUNK):
        texts = list(documents[start : start + _CHUNK])
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for text, tokens, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            own = np.asarray([*tokens, tokenizer.eos_token_id], np.int32)[:most]
            ids.append(own)
            sizes.append(np.append(byte_sizes(text, spans), np.int32(0))[: len(own)])
            lengths.append(len(own))
    return np.concatenate(ids), np.concatenate(sizes), np.asarray(lengths)


def byte_sizes(text: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Bytes of UTF-8 that each token stands for, (tokens,) int32, from its span of characters.

    What lies between two spans (blanks that a tokenizer drops) counts with the later one, and a character that several
    tokens share counts once, so that the sizes add up to the text as far as the last token.
    """
    width = np.array([len(character.encode("utf-8", "surrogatepass")) for character in text], np.int64)
    until = np.concatenate([[0], np.cumsum(width)])  # bytes before each character
    ends = until[np.array([end for _, end in spans], np.int64)] if spans else np.zeros(0, np.int64)
    return np.diff(np.maximum.accumulate(ends), prepend=0).astype(np.int32)
