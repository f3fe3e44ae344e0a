"""Random d-dimensional subspaces of R^D: theta (d) to P theta (D) and back by the transpose. Li et al. 2018.

Dense: Gaussian entries. Sparse: Li, Hastie, Church 2006: a share rho = 1 / sqrt(D_i) of the entries is +-1 for a tensor
of D_i elements, the others are 0. The columns of both are divided by their length over all D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from lrexp.linalg.fastfood import Fastfood, Pieces, draw_pieces, length

Kind = Literal["dense", "sparse", "fastfood"]
CHUNK = 2**24  # entries of a dense P that are drawn together
HELD = 2**30  # entries of a dense P that are kept; more are drawn again whenever they are needed
GROUP = 2**22  # elements of Fastfood parts of equal length that are transformed together


class Projection(Protocol):
    """A linear map from theta to the vectors of one or more parts, and its transpose."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of every part."""
        ...

    def apply(self, theta: Tensor) -> list[Tensor]:
        """P_i theta of every part, flat."""
        ...

    def adjoint(self, gradients: Sequence[Tensor]) -> Tensor:
        """P_i^T g_i of every part, (parts, d)."""
        ...

    def to(self, device: torch.device) -> Projection:
        """The same on a device."""
        ...


@dataclass(frozen=True, eq=False)
class Dense:
    """P by blocks of rows (rows, d), which are held or drawn again by `draw(i)`. Columns are over `norms`."""

    sizes: tuple[int, ...]
    rows: tuple[int, ...]  # of every block
    norms: Tensor  # (d)
    held: tuple[Tensor, ...] | None = None
    draw: Callable[[int], Tensor] | None = None

    @classmethod
    def of(cls, blocks: Sequence[Tensor], norms: Tensor | None = None) -> Dense:
        """From blocks that are given; their columns are divided by `norms` (d), by default their lengths."""
        rows = tuple(len(block) for block in blocks)
        return cls((sum(rows),), rows, _column_norms(blocks) if norms is None else norms, held=tuple(blocks))

    def block(self, i: int) -> Tensor:
        """The i-th block."""
        if self.held is not None:
            return self.held[i]
        assert self.draw is not None, "blocks are held or drawn"
        return self.draw(i)

    @classmethod
    def drawn(cls, D: int, d: int, generator: Callable[[int], torch.Generator]) -> Dense:
        """i.i.d. N(0, 1) with columns of length 1; the i-th block comes from `generator(i)`."""
        most = max(1, CHUNK // d)
        rows = tuple(min(most, D - start) for start in range(0, D, most))

        def block(i: int) -> Tensor:
            return torch.randn(rows[i], d, generator=generator(i))

        if D * d <= HELD:
            return cls.of([block(i) for i in range(len(rows))])
        return cls((D,), rows, _column_norms(block(i) for i in range(len(rows))), draw=block)

    def to(self, device: torch.device) -> Dense:
        """The same on a device; blocks that are held move there."""
        if self.norms.device == device:
            return self
        held = None if self.held is None else tuple(block.to(device) for block in self.held)
        return replace(self, held=held, norms=self.norms.to(device))

    def __deepcopy__(self, memo: dict[int, Any]) -> Dense:
        return self

    def apply(self, theta: Tensor) -> list[Tensor]:
        """P theta, flat."""
        scaled = theta / self.norms.to(theta.dtype)
        return [torch.cat([self.block(i).to(theta) @ scaled for i in range(len(self.rows))])]

    def adjoint(self, gradients: Sequence[Tensor]) -> Tensor:
        """P^T g, (1, d)."""
        parts = gradients[0].split(self.rows)
        total = sum(g @ self.block(i).to(g) for i, g in enumerate(parts))
        return (total / self.norms.to(gradients[0].dtype))[None]


@dataclass(frozen=True, eq=False)
class Sparse:
    """P by its entries, ordered by row: 12 bytes each."""

    sizes: tuple[int, ...]
    rows: Tensor  # int32, in R^D
    columns: Tensor  # int32, in R^d
    values: Tensor  # over the length of the column
    norms: Tensor  # (d); a column without an entry stays 0

    @classmethod
    def of(cls, D: int, d: int, rows: Tensor, columns: Tensor, values: Tensor) -> Sparse:
        """From entries that are given; the columns are divided by their length."""
        norms = values.new_zeros(d, dtype=torch.float64).index_add_(0, columns, values.double().square()).sqrt()
        scaled = (values.double() / norms[columns.long()]).to(values.dtype)
        return cls((D,), rows.to(torch.int32), columns.to(torch.int32), scaled, norms)

    def to(self, device: torch.device) -> Sparse:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("rows", "columns", "values", "norms")}
        return self if moved["rows"] is self.rows else replace(self, **moved)

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparse:
        return self

    def apply(self, theta: Tensor) -> list[Tensor]:
        """P theta, flat."""
        moved = theta.index_select(0, self.columns) * self.values
        return [theta.new_zeros(self.sizes[0]).index_add_(0, self.rows, moved)]

    def adjoint(self, gradients: Sequence[Tensor]) -> Tensor:
        """P^T g, (1, d)."""
        (g,) = gradients
        moved = g.index_select(0, self.rows) * self.values
        return g.new_zeros(len(self.norms)).index_add_(0, self.columns, moved)[None]


class Entries(NamedTuple):
    """Entries of a sparse block (D_i, d), ordered by row."""

    rows: Tensor
    columns: Tensor
    values: Tensor


class Draw:
    """Everything random about a subspace: each piece from the CPU generator of its name, the same on every device."""

    def __init__(self, generator: Callable[[str], torch.Generator]) -> None:
        self.generator = generator

    def fastfood(self, name: str, D: int, d: int) -> Pieces:
        """B, Pi and G of a part."""
        return draw_pieces(D, d, self.generator(f"fastfood:{name}"))

    def dense(self, name: str, D: int, d: int) -> Dense:
        """A dense P of a part."""
        return Dense.drawn(D, d, lambda i: self.generator(f"dense:{name}:{i}"))

    def entries(self, name: str, D: int, d: int) -> Entries:
        """The entries of a tensor's block: each is there with probability rho, with either sign."""
        generator, rho = self.generator(f"sparse:{name}"), D**-0.5
        places = _successes(D * d, rho, generator)
        signs = torch.randint(0, 2, places.shape, generator=generator) * 2 - 1
        return Entries(places // d, places % d, signs * (rho * d) ** -0.5)

    def sparse(self, sizes: Mapping[str, int], d: int) -> Sparse:
        """A sparse P over tensors that lie one behind the other."""
        starts, D = [], 0
        for size in sizes.values():
            starts.append(D)
            D += size
        blocks = [self.entries(name, size, d) for name, size in sizes.items()]
        rows = torch.cat([block.rows + start for block, start in zip(blocks, starts, strict=True)])
        return Sparse.of(D, d, rows, torch.cat([b.columns for b in blocks]), torch.cat([b.values for b in blocks]))


class Placed(NamedTuple):
    """A projection and, for each of its parts, which tensors lie in it, one behind the other."""

    projection: Projection
    parts: tuple[tuple[int, ...], ...]


def over_all(kind: Kind, sizes: Mapping[str, int], d: int, draw: Draw) -> list[Placed]:
    """One projection over all tensors together: its columns have length 1 in the whole of R^D."""
    D, everything = sum(sizes.values()), (tuple(range(len(sizes))),)
    if kind == "fastfood":
        return [Placed(Fastfood.of([draw.fastfood("all", D, d)], d), everything)]
    return [Placed(draw.dense("all", D, d) if kind == "dense" else draw.sparse(sizes, d), everything)]


def per_tensor(kind: Kind, sizes: Mapping[str, int], d: int, draw: Draw) -> list[Placed]:
    """A projection for each tensor, of the same theta: its columns have length 1 in every tensor."""
    if kind != "fastfood":
        single = ({name: size} for name, size in sizes.items())
        drawn = [draw.sparse(one, d) if kind == "sparse" else draw.dense(*next(iter(one.items())), d) for one in single]
        return [Placed(projection, ((i,),)) for i, projection in enumerate(drawn)]
    by_length: dict[int, list[int]] = {}
    for i, size in enumerate(sizes.values()):
        by_length.setdefault(length(size), []).append(i)
    names, placed = list(sizes), []
    for L, members in by_length.items():
        step = max(1, GROUP // L)
        for group in (members[at : at + step] for at in range(0, len(members), step)):
            pieces = [draw.fastfood(names[i], sizes[names[i]], d) for i in group]
            placed.append(Placed(Fastfood.of(pieces, d), tuple((i,) for i in group)))
    return placed


def _column_norms(blocks: Iterable[Tensor]) -> Tensor:
    squares: Any = sum(block.double().square().sum(0) for block in blocks)
    return squares.sqrt()


def _successes(count: int, rho: float, generator: torch.Generator) -> Tensor:
    """Where `count` trials of probability `rho` succeed, in order: the gaps between them are geometric."""
    expected = count * rho
    size = int(expected + 6 * expected**0.5 + 16)
    found, last = [], -1
    if isinstance(torch.empty(0), FakeTensor):  # on shapes alone there are as many as are expected
        return torch.empty(round(expected), dtype=torch.int64)
    while last < count:
        u = 1 - torch.rand(size, generator=generator, dtype=torch.float64)  # in (0, 1]
        gaps = (u.log() / torch.tensor(1 - rho, dtype=torch.float64).log()).floor().clamp_max(count) + 1
        places = last + gaps.to(torch.int64).cumsum(0)
        found.append(places)
        last = int(places[-1])
    places = torch.cat(found)
    return places[places < count]
