"""Prompts and completions to sequences of tokens, each token with its bytes and whether it is to be predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrexp.spec.errors import InputError
from lrexp.tasks.encode import Encoded
from lrexp.tasks.instruction import InstructionData
from lrexp.tasks.items import Item, Items
from lrexp.tasks.language_encode import byte_sizes

_CHUNK = 2048  # texts given to the tokenizer at once


@dataclass(frozen=True)
class Texts:
    """The rows of one split as texts; `rows` are their numbers in the split as read."""

    prompts: list[str]
    completions: list[str]
    rows: np.ndarray  # (items,) int64


@dataclass(frozen=True, eq=False)
class Asked(Items):
    """Items of a split whose prompts are answered by the model.

    Each is an item of `sequences` with "prompt_ids" (its prompt alone) and "answer", a place in the list of answers.
    """

    sequences: Encoded
    prompts: list[np.ndarray]  # (tokens,) int64, one an item
    answers: np.ndarray  # (items,) int64

    def __len__(self) -> int:
        return len(self.sequences)

    def item(self, i: int) -> Item:
        """Item number `i`, as the class says it is."""
        return {**self.sequences[i], "prompt_ids": self.prompts[i], "answer": self.answers[i]}

    @property
    def largest_token(self) -> int:
        """The largest token of the sequences and the prompts."""
        return max(self.sequences.largest_token, *(int(ids.max(initial=-1)) for ids in self.prompts), -1)


def encode(texts: Texts, tokenizer: Any, data: InstructionData, is_train: bool, where: str) -> Encoded:
    """One sequence a row: prompt and completion as one text, the tokenizer's first token before it, its end-of-text
    token after it.

    "is_target" is 1 for the tokens that hold a character of the completion and for the end (for all tokens where
    `completion_only_loss` is false). What is longer than `max_length` is cut or, in train, dropped; so is a row of
    train that has no target left. Raises InputError where no row is left.
    """
    first = prompt_start(tokenizer)
    parts = [
        _sequence(ids, spans, prompt, completion, first, tokenizer.eos_token_id, data)
        for prompt, completion, ids, spans in _tokenized(texts, tokenizer)
    ]
    kept = np.array([not is_train or _is_trained(part, data) for part in parts], bool)
    if not kept.any():
        raise InputError(
            f"{where}: no row has a token to predict within dataset.max_length={data.max_length} "
            f"(dataset.truncation={data.truncation})"
        )
    cut = slice(-data.max_length, None) if data.truncation == "left" else slice(data.max_length)
    flat = np.concatenate([part[:, cut] for part, keep in zip(parts, kept, strict=True) if keep], axis=1)
    lengths = [min(part.shape[1], data.max_length) for part, keep in zip(parts, kept, strict=True) if keep]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = {
        name: np.ascontiguousarray(row) for name, row in zip(("input_ids", "bytes", "is_target"), flat, strict=True)
    }
    rows = texts.rows[kept]
    return Encoded(tokens, offsets, np.zeros(len(rows), np.int64), rows, np.arange(len(rows)))


def prompt_tokens(prompts: Sequence[str], tokenizer: Any) -> list[np.ndarray]:
    """Prompts alone, as the model is given them to go on from, (tokens,) int64 each."""
    first = prompt_start(tokenizer)
    found = tokenizer(list(prompts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [np.array([*first, *ids], np.int64) for ids in found]


def prompt_start(tokenizer: Any) -> list[int]:
    """The token that the tokenizer puts before a text, if it does so (LLaMA's <s>; GPT-2 has none)."""
    found = tokenizer("")["input_ids"]
    return [tokenizer.bos_token_id] if found and found[0] == tokenizer.bos_token_id is not None else []


def _tokenized(texts: Texts, tokenizer: Any) -> Iterator[tuple[str, str, list[int], list[tuple[int, int]]]]:
    pairs = list(zip(texts.prompts, texts.completions, strict=True))
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        encoded = tokenizer(
            [prompt + completion for prompt, completion in chunk],
            add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False,
        )  # fmt: skip
        for pair, ids, spans in zip(chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            yield *pair, ids, spans


def _sequence(
    ids: list[int], spans: list[tuple[int, int]], prompt: str, completion: str, first: list[int], end: int,
    data: InstructionData,
) -> np.ndarray:  # fmt: skip
    """Ids, bytes and targets of a whole row, (3, tokens) int32."""
    ends = np.array([stop for _, stop in spans], np.int64)
    is_target = ends > len(prompt) if data.completion_only_loss else np.ones(len(ids), bool)
    body = np.stack([np.asarray(ids, np.int32), byte_sizes(prompt + completion, spans), is_target.astype(np.int32)])
    before = np.array([[token, 0, 0] for token in first], np.int32).reshape(-1, 3).T
    return np.concatenate([before, body, np.array([[end], [0], [1]], np.int32)], axis=1)


def _is_trained(part: np.ndarray, data: InstructionData) -> bool:
    """Whether a row of train is kept: it has a target within the length, and is not too long where that counts."""
    if data.truncation == "drop" and part.shape[1] > data.max_length:
        return False
    cut = part[:, -data.max_length :] if data.truncation == "left" else part[:, : data.max_length]
    return bool(cut[2, 1:].any())
