"""The layers whose dense weight a pretraining method replaces, and their ranks."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import features
from lrexp.models.roles import selection
from lrexp.spec.errors import InputError

SHARE = 4  # the rank of 60M, 350M, 1B and 7B in the papers is the width over this


def ranks(
    model: nn.Module, target_modules: str | tuple[str, ...], head: tuple[str, ...], rank: int | None
) -> dict[str, int]:
    """The rank of every target by name, in the model's order; with None a quarter of a layer's smaller side.

    Raises InputError for what is no Linear or Conv1D, for a part of a fused layer, and for a rank above what a weight
    can have.
    """
    found = {}
    for name, slices in selection(model, target_modules, head).items():
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear | Conv1D):
            raise InputError(f"target_modules: {name} is a {type(layer).__name__}: only linear layers are factorised")
        if not all(slices):
            raise InputError(f"target_modules: {name} is a fused layer, whose parts are factorised together: name them")
        most = min(features(layer))
        if rank is not None and rank > most:
            raise InputError(f"rank is {rank}: {name} is {features(layer)[0]} x {features(layer)[1]}, at most {most}")
        found[name] = rank or max(1, most // SHARE)
    return found
