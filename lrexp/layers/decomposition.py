"""Leading singular triplets of a model's weights, kept on disk by the hash of the weight.

A cache can only save time: a file that cannot be read or whose numbers are damaged is computed anew, a folder that
cannot be written is done without. Numbers differ in the last bits between devices, thread counts and versions, so
these are part of the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lrexp.layers.adapted import has_values
from lrexp.linalg.svd import Triplets, exact_svd, randomized_svd, singular_values, test_shape


def top_triplets(weight: Tensor, r: int, cache: Path | None) -> Triplets:
    """The r leading triplets of an (m, n) weight; empty ones of the right shapes where the weight has a shape alone.

    Raises ValueError for a weight with NaN or infinity.
    """
    return _kept(weight, r, cache, ("exact",), lambda: exact_svd(weight, r), _shapes(weight, r))


def spectrum(weight: Tensor, cache: Path | None) -> Tensor:
    """All singular values of an (m, n) weight, descending; empty ones where the weight has a shape alone.

    Raises ValueError for a weight with NaN or infinity.
    """
    m, n = weight.shape
    k = min(m, n)

    def compute() -> Triplets:
        S = singular_values(weight)
        return Triplets(S.new_empty(m, 0), S, S.new_empty(0, n))

    return _kept(weight, k, cache, ("spectrum",), compute, ((m, 0), (k,), (0, n))).S


def sketched_triplets(
    weight: Tensor, r: int, niter: int, oversampling: int, omega: Tensor, cache: Path | None
) -> Triplets:
    """The same from a randomized SVD with the test matrix `omega`, whose numbers count as part of the question."""
    question = ("randomized", niter, oversampling, *([_digest(omega)] if cache and has_values(omega) else []))
    return _kept(
        weight,
        r,
        cache,
        question,
        lambda: randomized_svd(weight, r, niter, oversampling, omega.to(weight.device)),
        _shapes(weight, r),
    )


def leading_triplets(
    weight: Tensor,
    r: int,
    niter: int,
    oversampling: int,
    draw: Callable[[tuple[int, int]], Tensor] | None,
    cache: Path | None,
) -> Triplets:
    """The same, randomized with the test matrix that `draw` gives for its shape, or exact where `draw` is None.

    On shapes alone nothing is drawn.
    """
    if draw is None or not has_values(weight):
        return top_triplets(weight, r, cache)
    omega = draw(test_shape((weight.shape[0], weight.shape[1]), r, oversampling))
    return sketched_triplets(weight, r, niter, oversampling, omega, cache)


def _kept(
    weight: Tensor,
    r: int,
    cache: Path | None,
    question: tuple[object, ...],
    compute: Callable[[], Triplets],
    shapes: tuple[tuple[int, ...], ...],
) -> Triplets:
    if not has_values(weight):
        wide = torch.promote_types(weight.dtype, torch.float32)
        return Triplets(*(weight.new_empty(shape, dtype=wide) for shape in shapes))
    if cache is None:
        return compute()
    path = cache / f"{_key(weight, r, question)}.safetensors"
    known = _read(path, shapes)
    if known is None:
        known = compute()
        _write(path, known)
    return Triplets(*(t.to(weight.device) for t in known))


def _shapes(weight: Tensor, r: int) -> tuple[tuple[int, ...], ...]:
    m, n = weight.shape
    return (m, r), (r,), (r, n)


def _key(weight: Tensor, r: int, question: tuple[object, ...]) -> str:
    machine = (torch.__version__, weight.device.type, torch.get_num_threads())
    text = repr((_digest(weight), r, question, machine))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest(*tensors: Tensor) -> str:
    """A hash of dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, shapes: tuple[tuple[int, ...], ...]) -> Triplets | None:
    try:
        with safe_open(path, framework="pt") as file:
            known = Triplets(*(file.get_tensor(name) for name in Triplets._fields))
            sound = (file.metadata() or {}).get("sha256") == _digest(*known)
    except (OSError, SafetensorError):
        return None
    return known if sound and tuple(tuple(t.shape) for t in known) == shapes else None


def _write(path: Path, triplets: Triplets) -> None:
    aside = path.with_suffix(f".{os.getpid()}.aside")
    tensors = {name: t.cpu().contiguous() for name, t in triplets._asdict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, aside, metadata={"sha256": _digest(*triplets)})
        os.replace(aside, path)
    except (OSError, SafetensorError):
        with contextlib.suppress(OSError):
            aside.unlink()
