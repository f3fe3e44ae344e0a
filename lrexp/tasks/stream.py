"""A stream of documents as items with numbers: made in blocks as a run comes to them, and kept in the cache.

Item i is the i-th sequence of the stream, whose files follow one another in an order that a seed has fixed. A block is
`buffer_size` sequences. Where a block begins in the files stands at the end of the one before it, so that a run which
goes on later finds its place in the cache, or else reads again from the start, and has the same items in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrexp.spec.errors import InputError, RunError
from lrexp.tasks import encode
from lrexp.tasks.encode import Encoded, Encodings
from lrexp.tasks.items import Item, Items
from lrexp.tasks.language_encode import singles, tokenized
from lrexp.tasks.sources import shards
from lrexp.tasks.streamed import StreamedData

_BATCH = 512  # documents tokenized at once
_HELD = 2  # blocks kept in memory


class Position(NamedTuple):
    """A place in a stream: which file, how many of its lines are used up, and tokens used of the document there."""

    shard: int = 0
    line: int = 0
    token: int = 0


@dataclass(frozen=True)
class Stream:
    """The documents of files in an order, as sequences of a tokenizer."""

    files: Sequence[shards.Shard]
    data: StreamedData
    tokenizer: Any

    def block(self, start: Position, count: int) -> tuple[Encoded | None, Position]:
        """The next `count` sequences, fewer at the stream's end (None for none), and where they end."""
        return self._packed(start, count) if self.data.packing else self._single(start, count)

    def _single(self, start: Position, count: int) -> tuple[Encoded | None, Position]:
        parts: list[Encoded] = []
        missing = count
        documents = self._documents(start)
        while missing > 0 and (batch := list(islice(documents, min(_BATCH, missing)))):
            parts.append(singles(*tokenized([text for _, text in batch], self.tokenizer), self.data.max_length))
            start = batch[-1][0]
            missing -= len(parts[-1])
        return encode.joined(parts) if any(len(part) for part in parts) else None, start

    def _packed(self, start: Position, count: int) -> tuple[Encoded | None, Position]:
        wanted = count * self.data.max_length
        ids: list[np.ndarray] = []
        sizes: list[np.ndarray] = []
        there, used = 0, start.token  # tokens so far; of the first document, tokens that the block before has
        end = start
        for batch in self._batches(start, count):
            tokens, own, lengths = tokenized([text for _, text in batch], self.tokenizer)
            ids.append(tokens[used:])
            sizes.append(own[used:])
            if there + len(tokens) - used >= wanted:
                ends = np.cumsum(lengths)
                last = int(np.searchsorted(ends, wanted - there + used))  # the document in which the block ends
                inside = wanted - there + used - int(ends[last] - lengths[last])
                end = self._within(batch, last, inside, int(lengths[last]))
                there = wanted
                break
            there, used = there + len(tokens) - used, 0
            end = batch[-1][0]
        blocks = min(there // self.data.max_length, count)
        if blocks == 0:
            return None, end
        flat = {"input_ids": np.concatenate(ids), "bytes": np.concatenate(sizes)}
        offsets = np.arange(blocks + 1, dtype=np.int64) * self.data.max_length
        flat = {name: values[: offsets[-1]] for name, values in flat.items()}
        rows = np.arange(blocks, dtype=np.int64)
        return Encoded(flat, offsets, np.zeros(blocks, np.int64), rows, rows), end

    @staticmethod
    def _within(batch: list[tuple[Position, str]], last: int, inside: int, length: int) -> Position:
        """The place after `inside` tokens of the batch's document `last`."""
        after = batch[last][0]  # the place after the document
        return after if inside == length else after._replace(line=after.line - 1, token=inside)

    def _batches(self, start: Position, most: int) -> Iterator[list[tuple[Position, str]]]:
        """Documents from a place on, each with the place after it."""
        documents = self._documents(start)
        while batch := list(islice(documents, min(_BATCH, most))):
            yield batch

    def _documents(self, start: Position) -> Iterator[tuple[Position, str]]:
        for shard in range(start.shard, len(self.files)):
            skipped = start.line if shard == start.shard else 0
            for line, text in shards.documents(self.files[shard](), self.data.text_column, skipped):
                yield Position(shard, line + 1), text


@dataclass(eq=False)
class Streamed(Items):
    """The first `total` sequences of a stream, in blocks of `data.buffer_size`. `about` names it in the cache."""

    stream: Stream
    total: int
    cache: Path | None
    about: list[Any]
    name: str  # what a message calls it
    _file: Path | None = field(init=False, default=None)
    _ends: dict[int, Position] = field(init=False, default_factory=dict)
    _held: dict[int, Encoded | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.cache is not None:
            self._file = encode.place(self.cache, self.stream.tokenizer, self.about)

    def __len__(self) -> int:
        return self.total

    def item(self, i: int) -> Item:
        """Sequence number `i` of the stream. Raises RunError where the shards end before it."""
        number, place = divmod(i, self.size)
        block = self.block(number)
        if block is None or place >= len(block):
            raise RunError(f"the shards end after {number * self.size + len(block or ())} sequences: {self.short}")
        return {**block[place], "row": np.int64(i)}

    @property
    def size(self) -> int:
        """The sequences of a block."""
        return self.stream.data.buffer_size

    @property
    def short(self) -> str:
        """What to do where the stream is too short."""
        return f"the run takes {self.total}; add shards, or train for fewer training.max_steps or training.max_tokens"

    @property
    def largest_token(self) -> int:
        """The largest token of the first block: what comes later is not read yet."""
        first = self.block(0)
        return -1 if first is None else first.largest_token

    def read_through(self) -> None:
        """Makes all sequences. Raises InputError where the stream ends before."""
        found = 0
        for number in range(-(-self.total // self.size)):
            block = self.block(number)
            found += len(block or ())
            if len(block or ()) < min(self.size, self.total - number * self.size):
                raise InputError(f"{self.name} holds {found} sequences: {self.short}")

    def block(self, number: int) -> Encoded | None:
        """A block, from memory, from the cache or from the files; None beyond the stream's end."""
        if number not in self._held:
            known = number
            while known > 0 and known - 1 not in self._ends and not self._is_kept(known):
                known -= 1
            for each in range(known, number + 1):
                found = self._loaded(each)
            self._held[number] = found
            for old in list(self._held)[:-_HELD]:
                del self._held[old]
        return self._held[number]

    def _loaded(self, number: int) -> Encoded | None:
        """The block, where its file is there or the end of the one before it is known."""
        file = self._named(number)
        kept = None if file is None else encode.load(file)
        if kept is not None:
            self._ends[number] = Position(**kept.read)
            return kept.splits["block"]
        start = self._start(number)
        made, end = self.stream.block(start, self.size)
        self._ends[number] = end
        if made is not None and file is not None:
            encode.save(Encodings({"block": made}, end._asdict(), None), file)
        return made

    def _start(self, number: int) -> Position:
        if number == 0:
            return Position()
        if number - 1 not in self._ends:  # the file that was there is damaged
            self._loaded(number - 1)
        return self._ends[number - 1]

    def _is_kept(self, number: int) -> bool:
        file = self._named(number)
        return file is not None and file.is_file()

    def _named(self, number: int) -> Path | None:
        return None if self._file is None else self._file.with_name(f"{self._file.stem}-{number:06d}.encoded")
