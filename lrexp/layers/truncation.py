"""What a model has changed in its base, as LoRA layers of a rank that one chooses and modules that are held whole.

The change of a layer's matrix is cut to its leading singular triplets, which is its best approximation of that rank
(Eckart and Young 1936).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from lrexp.layers.adapted import features
from lrexp.layers.lora import lora_layer
from lrexp.layers.lora_layer import LoRALayer, LoRASettings
from lrexp.layers.peft_format import PlainLoRA, plain_lora
from lrexp.linalg.svd import exact_svd
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class Truncation:
    """A model's change: layers cut to a rank, what each of them loses, and what is held as it is."""

    layers: dict[str, PlainLoRA]
    lost: dict[str, float]  # of each layer, relative Frobenius norm
    lost_together: float  # of all layers, relative Frobenius norm
    modules: list[str]  # held whole: norms, and whatever else LoRA has no layer for
    biases: list[str]  # the layers whose biases have changed too

    @property
    def worst(self) -> str:
        """The layer that loses most."""
        return max(self.lost, key=lambda name: self.lost[name])


@torch.no_grad()
def truncate(model: nn.Module, base: nn.Module, head: list[str], rank: int) -> Truncation:
    """The change from `base` to `model`, two plain models in the same precision, without the head's modules.

    A layer whose matrix has a lower rank gets that. Raises InputError for other shapes, for NaN, where no matrix has
    changed, and for a change that is in no leaf of the model.
    """
    before, after = base.state_dict(), model.state_dict()
    if {name: t.shape for name, t in before.items()} != {name: t.shape for name, t in after.items()}:
        raise InputError("the model no longer has its base's layers, of whose change there could be an approximation")
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    owners: dict[str, set[str]] = {}
    for name in changed:
        owner, _, own = name.rpartition(".")
        if not any(f"{owner}.".startswith(f"{module}.") for module in head):
            owners.setdefault(owner, set()).add(own)
    layers: dict[str, PlainLoRA] = {}
    sizes: dict[str, tuple[float, float]] = {}  # Frobenius norms: what is lost, and the whole change
    modules, biases = [], []
    for name, own in owners.items():
        one, other = base.get_submodule(name), model.get_submodule(name)
        layer, trained = (_layer(name, module, rank) if "weight" in own else None for module in (one, other))
        if layer is not None and trained is not None:
            sizes[name] = _fit(name, layer, trained)
            layers[name] = plain_lora(name, layer)
            biases += [name] * ("bias" in own)
        elif name and not list(one.children()):
            modules.append(name)
        else:
            raise InputError(f"{'.'.join(filter(None, (name, min(own))))} has changed, for which LoRA has no place")
    if not layers:
        raise InputError("no matrix but the head's has changed: there is nothing to approximate")
    lost, whole = (math.hypot(*(pair[side] for pair in sizes.values())) for side in (0, 1))
    return Truncation(layers, {n: part / all_ for n, (part, all_) in sizes.items()}, lost / whole, modules, biases)


def _layer(name: str, base: nn.Module, rank: int) -> LoRALayer | None:
    """A LoRA layer of scale 1 and the rank, or the most that its matrix can have; None for what cannot have one."""
    r = min(rank, *features(base))
    try:
        return lora_layer(name, base, LoRASettings(r, r, dtype=base.weight.dtype))  # type: ignore[arg-type]
    except InputError:
        return None


def _fit(name: str, layer: LoRALayer, trained: LoRALayer) -> tuple[float, float]:
    """Sets the factors to the leading triplets of the change; the norms of what they leave and of the change."""
    change = trained.matrices()[0] - layer.matrices()[0]  # (m, n)
    try:
        U, S, Vh = exact_svd(change, layer.r)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    root = S.sqrt()
    A, B = root[:, None] * Vh, U * root
    layer.set_factors(A, B)
    return float((change - B @ A).norm()), float(change.norm())
