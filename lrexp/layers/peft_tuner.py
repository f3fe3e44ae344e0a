"""A tuner of PEFT inside a model that keeps its class and its names: injected, merged, written in PEFT's own format."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import replace
from lrexp.layers.peft_config import config_class
from lrexp.models.roles import plays
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

NAME = "default"  # of the adapter: PEFT's own


def make_config(peft_type: str, values: Mapping[str, Any], model: nn.Module, targets: Sequence[str]) -> PeftConfig:
    """The tuner's config for these layers. Raises InputError for what PEFT refuses."""
    cls = config_class(peft_type)
    known = cls.__dataclass_fields__
    kinds = {type(model.get_submodule(name)) for name in targets}
    own: dict[str, Any] = {"target_modules": list(targets)}
    own |= {"fan_in_fan_out": kinds == {Conv1D}} if "fan_in_fan_out" in known else {}
    own |= {"progressbar": False} if "progressbar" in known else {}
    if "feedforward_modules" in known:
        own["feedforward_modules"] = [name for name in targets if plays(name, "down")]
    with _peft_speaks(peft_type):
        return cls(**values, **own)


def inject(config: PeftConfig, model: nn.Module, targets: Sequence[str]) -> None:
    """Puts the tuner's layers in the place of the targets; it freezes all but what it trains.

    Tuners draw from torch's global generator. Raises InputError for what PEFT refuses, for a tuner that reaches other
    layers than the targets, and for one that changes the base's weights: they would be in no file.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    peft_type = config.peft_type.value  # type: ignore[union-attr]
    base = {id(p): (p, p._version, p.dtype) for p in model.parameters()}
    buffers = {id(b) for b in model.buffers()}
    dtypes = {name: model.get_submodule(name).weight.dtype for name in targets}
    with _peft_speaks(peft_type):
        # Not by inject_adapter_in_model, which refuses what layers share, though they hold it themselves.
        PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, NAME)  # type: ignore[index]
    found = tuner_layers(model)
    if found.keys() != set(targets):
        other = sorted(found.keys() ^ set(targets))[0]
        raise InputError(f"method.peft_type={peft_type} does not keep to the target modules: {other}")
    kept = {id(p) for p in model.parameters()}
    if any(id(p) not in kept or p._version != version for p, version, _ in base.values()):
        raise InputError(f"method.peft_type={peft_type} with this config changes the base's weights: it is not run here")
    for name, layer in found.items():
        for tensor in (*layer.parameters(), *layer.buffers()):  # type: ignore[attr-defined]
            if id(tensor) not in base and id(tensor) not in buffers and tensor.is_floating_point():
                tensor.data = tensor.data.to(dtypes[name])


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """The tuner's layers by the names of the modules they stand for; none where the model has no tuner."""
    if not hasattr(model, "peft_config"):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def merge(model: nn.Module) -> nn.Module:
    """The model with every tuner layer merged into a plain one. Raises InputError for a tuner that cannot be."""
    peft_type = config_of(model).peft_type.value  # type: ignore[union-attr]
    for name, layer in tuner_layers(model).items():
        with torch.no_grad(), _peft_speaks(peft_type, "cannot be merged into plain weights"):
            layer.merge()
        replace(model, {name: layer.get_base_layer()})
    del model.peft_config
    return model


def config_of(model: nn.Module) -> PeftConfig:
    """The config of the tuner in a model."""
    return model.peft_config[NAME]  # type: ignore[index, return-value]


@contextmanager
def _peft_speaks(peft_type: str, what: str = "") -> Iterator[None]:
    """Within the block warnings are left out, and what PEFT refuses becomes an InputError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, TypeError, NotImplementedError, AttributeError, ImportError, RuntimeError) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"method.peft_type={peft_type}{' ' * bool(what)}{what}: {text}") from error
