"""Matrices in fewer bits by the libraries that quantise: torchao (int8, int4) and bitsandbytes (nf4).

The libraries are imported where a weight is quantised, and nowhere else: what is stored needs them no more, but for nf4
on CUDA, whose kernel is bitsandbytes'.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from logging import CRITICAL, disable, root

import torch
from torch import Tensor, nn

from lrexp.layers.adapted import has_values
from lrexp.linalg.weight_only import BLOCK, GROUP, NF4, Int4, Int8, Kind, Quantised, blank
from lrexp.spec.errors import InputError

PACKAGES: dict[Kind, str] = {"int8": "torchao", "int4": "torchao", "nf4": "bitsandbytes"}


def require(kind: Kind) -> None:
    """Raises InputError where the library is not installed."""
    name = PACKAGES[kind]
    if find_spec(name) is None:
        raise InputError(f'model.quantization={kind} needs {name}, which is not there: pip install "lrexp[quantized]"')


@torch.no_grad()
def quantise(W: Tensor, kind: Kind) -> Quantised:
    """The matrix (m, n) stored in fewer bits, on its device; from a fake matrix, fake tensors of the same sizes."""
    if not has_values(W):
        return blank(W, kind)
    require(kind)
    return _nf4(W.contiguous()) if kind == "nf4" else _torchao(W.contiguous(), kind)


def _torchao(W: Tensor, kind: Kind) -> Quantised:
    with _silence():
        import torchao.quantization as ao
        from torchao.quantization.quant_primitives import MappingType

        layer = nn.Linear(W.shape[1], W.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(W, requires_grad=False)
        if kind == "int8":
            ao.quantize_(layer, ao.Int8WeightOnlyConfig(set_inductor_config=False))
        else:
            groups, mapping = ao.PerGroup(GROUP), MappingType.ASYMMETRIC
            ao.quantize_(layer, ao.IntxWeightOnlyConfig(torch.int4, groups, mapping))  # type: ignore[attr-defined]
    found = layer.weight
    if kind == "int8":
        return Int8(found.qdata, found.scale, W.dtype)  # type: ignore[attr-defined]
    codes, zero = ((t + 8).to(torch.uint8) for t in (found.qdata, found.zero_point))  # type: ignore[attr-defined]
    left, right = codes.chunk(2, dim=1)
    return Int4(left | right << 4, found.scale, zero, W.dtype)  # type: ignore[attr-defined]


def _nf4(W: Tensor) -> NF4:
    with _silence():
        from bitsandbytes.functional import quantize_4bit  # pyright: ignore[reportMissingImports]
    data, state = quantize_4bit(W, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    assert state.code is not None
    return NF4(data.view(W.shape[0], -1), state.absmax, state.code, W.dtype)


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps what the libraries say of kernels that are not needed here to themselves, but for LREXP_DEBUG=1."""
    if os.environ.get("LREXP_DEBUG") == "1":
        yield
        return
    before = root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disable(CRITICAL)
        try:
            yield
        finally:
            disable(before)
