"""A tuner of PEFT inside a model that keeps its class and its names: injected, merged, written in PEFT's own format."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import has_values, replace
from lrexp.layers.peft_config import config_class
from lrexp.layers.peft_format import PREFIX
from lrexp.models.roles import plays
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
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

    Tuners draw from torch's global generator. On fake tensors the tuner gets real ones of the same shapes, since many
    look at numbers, and what it makes of them becomes fake again. Raises InputError for what PEFT refuses, for a tuner
    that reaches other layers than the targets, and for one that changes the base's weights: they would be in no file.
    """
    if all(has_values(model.get_submodule(name).weight) for name in targets):  # type: ignore[arg-type]
        _inject(config, model, targets)
        return
    with _disable_current_modes():
        places = _stand_in(model, targets)
        _inject(config, model, targets)
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is None:
                continue
            _, fake = places.setdefault(id(p), (p, nn.Parameter(torch.empty(p.shape, dtype=p.dtype))))
            fake.requires_grad = p.requires_grad
            module._parameters[name] = fake
        for name, b in module._buffers.items():
            if b is not None and has_values(b):
                module._buffers[name] = torch.empty(b.shape, dtype=b.dtype)


def _stand_in(model: nn.Module, targets: Sequence[str]) -> dict[int, tuple[nn.Parameter, nn.Parameter]]:
    """Real parameters in place of fake ones, by the id of the new one: it and the one that was there.

    Those of a target hold numbers, shared by all of one shape; the others have a single zero in memory.
    """
    drawn: dict[tuple[torch.Size, torch.dtype], Tensor] = {}
    inside = {id(p) for name in targets for p in model.get_submodule(name).parameters()}
    found: dict[int, nn.Parameter] = {}
    places: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is None:
                continue
            if id(p) not in found:
                key = (p.shape, p.dtype)
                if id(p) in inside and key not in drawn:
                    drawn[key] = torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).to(p.dtype)
                numbers = drawn[key] if id(p) in inside else torch.zeros((), dtype=p.dtype).expand(p.shape)
                found[id(p)] = nn.Parameter(numbers, p.requires_grad)
                places[id(found[id(p)])] = (found[id(p)], p)
            module._parameters[name] = found[id(p)]
    return places


def _inject(config: PeftConfig, model: nn.Module, targets: Sequence[str]) -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    peft_type = config.peft_type.value  # type: ignore[union-attr]
    base = {id(p): (p, p._version, p.data_ptr()) for p in model.parameters()}
    dtypes = {name: model.get_submodule(name).weight.dtype for name in targets}
    with _peft_speaks(peft_type):
        # Not by inject_adapter_in_model, which refuses what layers share, though they hold it themselves.
        PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, NAME)  # type: ignore[index]
    found = tuner_layers(model)
    if found.keys() != set(targets):
        other = sorted(found.keys() ^ set(targets))[0]
        raise InputError(f"method.peft_type={peft_type} does not keep to the target modules: {other}")
    kept = {id(p) for p in model.parameters()}
    if any(id(p) not in kept or [p._version, p.data_ptr()] != was for p, *was in base.values()):
        raise InputError(
            f"method.peft_type={peft_type} with this config changes the base's weights: it is not run here"
        )
    for name, layer in found.items():
        for tensor in (*layer.parameters(), *layer.buffers()):  # type: ignore[attr-defined]
            if id(tensor) not in base and tensor.is_floating_point():
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


def whole(
    config: PeftConfig,
    base: nn.Module,
    state: Mapping[str, Tensor],
    head: Sequence[str],
    task_type: str | None,
    base_model: str | None,
) -> PeftModel:
    """The tuner and the head with the numbers of `state` on the original base, as PEFT itself puts them together."""
    from peft import get_peft_model

    config = copy.deepcopy(config)
    config.task_type = task_type  # type: ignore[assignment]
    if head:
        config.modules_to_save = list(head)  # type: ignore[attr-defined]
    with torch.no_grad(), _peft_speaks(config.peft_type.value):  # type: ignore[union-attr]
        found = get_peft_model(base, config, NAME, autocast_adapter_dtype=False)
        config.base_model_name_or_path = base_model  # PEFT takes the model's own name for it
        own = dict(found.named_parameters(remove_duplicate=False)) | dict(found.named_buffers(remove_duplicate=False))
        for name, tensor in state.items():
            owner = next((h for h in head if name.startswith(f"{h}.")), None)
            inside = name if owner is None else f"{owner}.modules_to_save.{NAME}{name.removeprefix(owner)}"
            own[f"{PREFIX}{inside}"].copy_(tensor)
    return found  # type: ignore[return-value]


def write(tuned: PeftModel, folder: Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json as PEFT loads them."""
    from peft import get_peft_model_state_dict

    config = config_of(tuned)
    config.inference_mode = True
    with _peft_speaks(config.peft_type.value):  # type: ignore[union-attr]
        found = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


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
