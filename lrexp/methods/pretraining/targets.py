"""The layers whose dense weight a pretraining method replaces, and their ranks."""

from __future__ import annotations

from torch import nn

from lrexp.layers.adapted import features
from lrexp.models.roles import LINEAR, whole_layers
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
    for name in whole_layers(model, target_modules, head, LINEAR):
        m, n = features(model.get_submodule(name))
        most = min(m, n)
        if rank is not None and rank > most:
            raise InputError(f"rank is {rank}: {name} is {m} x {n}, at most {most}")
        found[name] = rank or max(1, most // SHARE)
    return found
