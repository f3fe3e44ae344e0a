"""Supports of sparse matrices: drawn, and in the row pointers that a sparse product reads.

A support of an (m, n) matrix is the ascending list of its flat row-major positions.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def index_dtype(size: int) -> torch.dtype:
    """The smallest signed integer type that holds 0 .. size - 1."""
    fits = (t for t in (torch.int16, torch.int32, torch.int64) if size - 1 <= torch.iinfo(t).max)
    return next(fits)


def draw_support(size: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the integers 0 .. size - 1, drawn uniformly without replacement, ascending; (count,) on the CPU.

    Where less than half is drawn, the first `count` distinct numbers of a sequence with replacement are taken:
    O(count) memory, where a permutation would take O(size). Else what is left out is drawn.
    Raises ValueError for a count outside 0 .. size.
    """
    if not 0 <= count <= size:
        raise ValueError(f"count is {count}: it is at least 0 and at most {size}")
    if 2 * count > size:
        inside = torch.ones(size, dtype=torch.bool)
        inside[draw_support(size, size - count, generator).long()] = False
        return inside.nonzero().view(-1).to(index_dtype(size))
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < count:  # each round draws what is missing: never one too many, which would have to be dropped
        drawn = torch.randint(size, (count - len(found),), generator=generator)
        found = torch.cat([found, drawn]).unique()  # ascending
    return found.to(index_dtype(size))


def csr(support: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The (m, n) matrix with `values` at its `support`, in torch's CSR layout with int32 indices."""
    m, n = shape
    flat = support.to(torch.promote_types(index_dtype(m * n + 1), torch.int32))
    ends = torch.arange(m + 1, device=flat.device, dtype=flat.dtype) * n
    crow = torch.searchsorted(flat, ends, out_int32=True)
    return _compressed(crow, (flat % n).int(), values, shape)


def transposed_csr(support: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The transpose (n, m) of that matrix, in CSR too: its entries are sorted by column, which takes O(nnz log nnz)."""
    m, n = shape
    flat = support.to(torch.promote_types(index_dtype(m * n + 1), torch.int32))
    columns, order = torch.sort(flat % n, stable=True)  # rows stay ascending within a column
    ends = torch.arange(n + 1, device=flat.device, dtype=flat.dtype)
    crow = torch.searchsorted(columns, ends, out_int32=True)
    rows = torch.div(flat[order], n, rounding_mode="floor").int()
    return _compressed(crow, rows, values[order], (n, m))


def _compressed(crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR|invariant)")  # torch says once that the layout is in beta
        return torch.sparse_csr_tensor(crow, columns, values, shape, check_invariants=False)
