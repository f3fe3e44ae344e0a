"""A sequence of items that are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

Item = Mapping[str, Any]


class Items(Sequence[Item]):
    """Subclasses say how many there are and make one by its number, counted from 0."""

    @abstractmethod
    def item(self, i: int) -> Item:
        """Item number `i`, at least 0 and below the length."""

    def read_through(self) -> None:
        """Makes what is made as late as it is needed. Raises InputError where the data end before the last item."""

    @overload
    def __getitem__(self, i: int) -> Item: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Item]: ...
    def __getitem__(self, i: int | slice) -> Item | Sequence[Item]:
        if isinstance(i, slice):
            return [self.item(j) for j in range(*i.indices(len(self)))]
        at = int(i) + len(self) * (i < 0)
        if not 0 <= at < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        return self.item(at)

    def __iter__(self) -> Iterator[Item]:
        return (self.item(i) for i in range(len(self)))
