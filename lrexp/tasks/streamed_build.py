"""Causal language modelling on streamed text: train in blocks as the run comes to them, the evaluation read at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError
from lrexp.tasks.sources import shards
from lrexp.tasks.streamed import StreamedData
from lrexp.tasks.tokenizer import check_tokenizer

if TYPE_CHECKING:
    from lrexp.tasks.base import Task
    from lrexp.tasks.encode import Encoded
    from lrexp.tasks.stream import Position, Stream

_FORMAT = 1  # raised whenever the same documents are encoded or ordered in another way
_ENCODED = ("text_column", "packing", "max_length")
_COUNTED = shards.WHOLE  # bytes of files up to which they are read through, to know that there is enough for the run


def check(dataset: Mapping[str, Any]) -> StreamedData:
    """The section's types and ranges; reads nothing. Raises InputError."""
    return from_mapping(StreamedData, dataset, "dataset")


def fingerprint(dataset: Mapping[str, Any]) -> str:
    """Hash of the data's content, or of its name on the hub. Raises InputError where a folder cannot be read."""
    return shards.fingerprint(check(dataset))


def build(
    dataset: Mapping[str, Any],
    tokenizer: Any,
    seed: int,
    cache: Path | None = None,
    hold_out_selection: bool = False,
    train_items: int | None = None,
) -> Task:
    """The task of a dataset section for one tokenizer; see `lrexp.tasks.build.build`.

    The order of train's files is that of `shuffle_seed`; within a block the run's seed decides. Evaluated are the first
    sequences of validation, those that come after them are the selection split.
    """
    import numpy as np

    from lrexp.tasks import splits
    from lrexp.tasks.base import Split
    from lrexp.tasks.causal_lm import CausalLM
    from lrexp.tasks.stream import Stream, Streamed

    data = check(dataset)
    check_tokenizer(tokenizer, data, "eos_token")
    if train_items is None:
        raise InputError(f"dataset={data.name} is streamed and has no epochs: set training.max_steps or max_tokens")
    content = fingerprint(dataset)
    files = shards.shards(data, "train")
    order = splits.shuffled(len(files), f"{data.shuffle_seed}:shards")
    stream = Stream([files[i] for i in order], data, tokenizer)
    about = ["stream", _FORMAT, content, data.shuffle_seed, data.buffer_size, _keys(data)]
    name = f"dataset.path: {data.path}" if data.path else f"dataset={data.name}"
    items = Streamed(stream, max(train_items, 1), cache, about, name)
    _refuse_short(items, data)
    length = data.max_length if data.packing else None
    evaluated = _evaluated(
        Stream(shards.shards(data, "validation"), data, tokenizer), content, cache, hold_out_selection
    )
    found = {name: Split(part, part.lengths, length) for name, part in evaluated.items()}
    lengths = np.broadcast_to(np.int64(data.max_length), (len(items),))
    found["train"] = Split(items, lengths, length, block=data.buffer_size)
    task = CausalLM(data, found, tokenizer)
    task.reported, task.fingerprint = "validation", content
    task.selection = "selection" if hold_out_selection else None
    return task


def _keys(data: StreamedData) -> dict[str, Any]:
    return {key: value for key, value in asdict(data).items() if key in _ENCODED}


def _refuse_short(items: Any, data: StreamedData) -> None:
    """Raises InputError where the stream is too short for the run, as far as that can be known soon."""
    if data.path and shards.size(data) <= _COUNTED:
        items.read_through()
    elif items.block(0) is None:
        raise InputError(f"dataset={data.name}: the first files hold no text")


def _evaluated(stream: Stream, content: str, cache: Path | None, hold_out_selection: bool) -> dict[str, Encoded]:
    """The first `max_eval_tokens` of validation in whole sequences, and as many after them to select on."""
    from lrexp.tasks import encode
    from lrexp.tasks.stream import Position

    data = stream.data

    def make() -> encode.Encodings:
        names = ("validation", "selection") if hold_out_selection else ("validation",)
        parts: dict[str, Encoded] = {}
        place = Position()
        for name in names:
            parts[name], place = _until(stream, place, name)
        return encode.Encodings(parts, {name: len(part) for name, part in parts.items()}, None)

    about = ["stream evaluated", _FORMAT, content, data.max_eval_tokens, hold_out_selection, _keys(data)]
    return encode.kept_or_made(cache, stream.tokenizer, about, make).splits


def _until(stream: Stream, place: Position, name: str) -> tuple[Encoded, Position]:
    """Sequences from a place on until they hold `max_eval_tokens` tokens, or all that are left; and where they end."""
    from lrexp.tasks import encode

    data, parts, missing = stream.data, [], stream.data.max_eval_tokens
    while missing > 0:
        part, place = stream.block(place, max(1, missing // data.max_length))
        if part is None:
            break
        parts.append(part)
        missing -= int(part.lengths.sum())
    if not parts:
        raise InputError(f"dataset={data.name}: validation has no text left for {name}: lower dataset.max_eval_tokens")
    return _numbered(encode.joined(parts)), place


def _numbered(part: Encoded) -> Encoded:
    from dataclasses import replace

    import numpy as np

    return replace(part, rows=np.arange(len(part.rows)))
