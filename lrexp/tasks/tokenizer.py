"""What a data set of text asks of the model's tokenizer."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from lrexp.spec.errors import InputError

NEEDED = {
    "eos_token": "end-of-text token (eos_token), which ends a text",
    "pad_token": "padding token (pad_token), which batches of texts need",
}


class Texts(Protocol):
    """A dataset section of texts."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102


def check_tokenizer(tokenizer: Any, data: Texts, token: Literal["eos_token", "pad_token"]) -> None:
    """Raises InputError for a model that reads no text, lacks a token that is needed, or takes shorter sequences."""
    if tokenizer is None:
        raise InputError(f"dataset={data.name} is text, and the model reads none (it has no tokenizer)")
    if getattr(tokenizer, f"{token}_id") is None:
        raise InputError(f"the model's tokenizer has no {NEEDED[token]}")
    if data.max_length > tokenizer.model_max_length:  # of a model that is loaded: lrexp.models.load.tokenizer
        raise InputError(
            f"dataset.max_length is {data.max_length}, but the model takes at most {tokenizer.model_max_length} tokens"
        )
