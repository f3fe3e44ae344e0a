"""The base of every adapter layer, and how layers are put into a model and merged out of it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.pytorch_utils import Conv1D

from lrexp.models.roles import head_modules


class AdaptedLayer(nn.Module):
    """A frozen base layer with a trained change of its weight: output(x) = base(x) + delta(x).

    Subclasses hold the trained parameters and give `delta` (fast, never a dense weight) and `delta_weight` (dense).
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)

    @property
    def weight(self) -> Tensor:
        """The base's weight: models look at its dtype and device."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, None where it has none."""
        return getattr(self.base, "bias", None)

    def delta(self, x: Tensor) -> Tensor:
        """What is added to the base's output for the input `x`, in the precision of the trained parameters."""
        raise NotImplementedError

    def delta_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """What is added to the base's weight, dense and in its layout, computed in `dtype` or better."""
        raise NotImplementedError

    def follow_base(self) -> None:
        """Takes in that the base's numbers have been rounded, after the layer was set up. Default: nothing to do."""

    def forward(self, x: Tensor) -> Tensor:
        """The base's output plus the change, in the precision of the base's output."""
        return add(self.base(x), self.delta(x))

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A plain copy of the base with the change in its weight: summed in float32 or better, rounded once."""
        wide = torch.float64 if self.weight.device.type == "cpu" else torch.float32  # float64 is cheap on a CPU alone
        change = self.delta_weight(wide)
        weight = (self.weight.to(change.dtype) + change).to(self.weight.dtype).contiguous()
        copies = {id(p): p.detach().clone() for p in self.base.parameters() if p is not self.weight}
        copies[id(self.weight)] = weight  # so that the old weight is not copied first
        return copy.deepcopy(self.base, {key: nn.Parameter(p, requires_grad=False) for key, p in copies.items()})


def add(output: Tensor, change: Tensor) -> Tensor:
    """The sum in the dtype of `output`; computed in the wider of the two."""
    return (output + change).to(output.dtype)


def has_values(tensor: Tensor) -> bool:
    """Whether the tensor holds numbers: False on the meta device and for fake tensors, which have a shape alone."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor) or isinstance(tensor.data, FakeTensor))


def features(base: nn.Module) -> tuple[int, int]:
    """(out, in) of a layer's weight, whichever way its kind stores it; a Conv2d counts its input patch."""
    weight: Tensor = base.weight  # type: ignore[assignment]
    if isinstance(base, Conv1D | nn.Embedding):
        return weight.shape[1], weight.shape[0]
    return weight.shape[0], weight[0].numel()


def replace(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Puts `layers` into the model at the named places, and wherever else the model holds the same module."""
    new = {id(model.get_submodule(name)): layer for name, layer in layers.items()}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                setattr(parent, name, new[id(child)])


def adapt(model: nn.Module, layers: Mapping[str, AdaptedLayer], head: tuple[str, ...]) -> nn.Module:
    """The model with its target modules replaced: they and the head are trained, all else is frozen."""
    trained = {id(p) for layer in layers.values() for p in layer.parameters() if p.requires_grad}
    for name in head_modules(model, head):
        trained |= {id(p) for p in model.get_submodule(name).parameters()}
    replace(model, layers)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return model


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """The adapter layers of a model by the names of the modules they stand for, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLayer)}


def merge(model: nn.Module) -> nn.Module:
    """The model with every adapter layer replaced by its merged plain layer, one at a time."""
    for name, layer in adapted_layers(model).items():
        replace(model, {name: layer.merged()})
    return model
