"""A finished run as an adapter in PEFT's format for the original base: exactly, or by an approximation of a rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lrexp.engine import checkpoint, quantisation
from lrexp.engine.export import CPU, Export, logits, trained_logits
from lrexp.engine.identify import Run
from lrexp.engine.precision import DTYPES, place
from lrexp.layers import peft_tuner
from lrexp.layers.adapted import AdaptedLayer, adapted_layers, replace
from lrexp.layers.peft_format import PlainLoRA, peft_config, peft_tensors, plain_lora
from lrexp.layers.truncation import truncate
from lrexp.methods import catalog
from lrexp.models import build
from lrexp.models.roles import head_modules
from lrexp.spec.errors import InputError
from lrexp.tasks.base import Task

TASK_TYPES = {"classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}  # PEFT's words


def exact(run: Run, task: Task, model: nn.Module) -> Export:
    """The run's own adapter; uses `model` up. Raises InputError for what PEFT cannot hold."""
    _refuse_drawn(run)
    layers, tuned = adapted_layers(model), peft_tuner.tuner_layers(model)
    if not run.method.keeps_base or not (layers or tuned):
        raise _otherwise(run, f"method={run.spec.method['name']} leaves no adapter that PEFT could hold")
    if tuned:
        return _tuned(run, task, model)
    _refuse_rounded_remainders(run, layers)
    try:
        plain = {name: plain_lora(name, layer) for name, layer in layers.items()}
    except InputError as error:
        raise _otherwise(run, str(error)) from error
    trained = trained_logits(run, task, model)
    head = head_modules(model, run.model.head)
    base = _base(run, task, next(model.parameters()).dtype)
    _refuse_other_changes(run, model, base, (*layers, *head))
    tensors = _tensors(model, head)
    config = peft_config(plain, [layer.base for layer in layers.values()], head, *_about(run, task))
    whole = quantisation.settle(_with(base, plain, tensors), run.model.quantization, run.model.head)
    exported = logits(whole, run, task)
    return Export.measured(partial(_write, config, peft_tensors(plain, tensors)), exported, trained)


def truncated(run: Run, task: Task, model: nn.Module, rank: int) -> Export:
    """The run's change of the base, each matrix cut to a rank, norms, biases and head as they are; uses `model` up.

    Of a run in bf16 it is the change since the base was rounded. Raises InputError for what cannot be had so.
    """
    _refuse_drawn(run)
    if not _has_approximation(run):
        name, kind = run.spec.method["name"], run.model.quantization
        over = f" over a base in {kind}" if kind else ""
        raise InputError(f"method={name}{over} has no change of the base that could be approximated: take --to merged.")
    trained = trained_logits(run, task, model)
    wide = next(model.parameters()).dtype
    model = run.method.finalize(model)
    head = head_modules(model, run.model.head)
    try:
        found = truncate(model, place(_base(run, task, DTYPES[run.spec.hardware.precision]), CPU, wide), head, rank)
    except InputError as error:
        raise InputError(f"{error}: take --to merged.") from error
    base = _base(run, task, wide)
    whole = [*head, *found.modules]
    tensors, biases = _tensors(model, whole), {f"{n}.bias": model.get_parameter(f"{n}.bias") for n in found.biases}
    config = peft_config(found.layers, list(map(base.get_submodule, found.layers)), whole, *_about(run, task))
    held = peft_tensors(found.layers, tensors | {f"{n}.base_layer.bias": biases[f"{n}.bias"] for n in found.biases})
    if biases:
        config["bias"] = "lora_only"
    about = {
        "rank": rank,
        "layers": len(found.layers),
        "relative_error": found.lost_together,
        "worst_layer": found.worst,
        "worst_relative_error": found.lost[found.worst],
    }
    exported = logits(_with(base, found.layers, tensors | biases), run, task)
    return Export.measured(partial(_write, config, held), exported, trained, about)


def _tuned(run: Run, task: Task, model: nn.Module) -> Export:
    """A run of one of PEFT's own tuners as PEFT itself writes it, put on the original base for that."""
    trained = trained_logits(run, task, model)
    head = head_modules(model, run.model.head)
    base = _base(run, task, next(model.parameters()).dtype)
    _refuse_other_changes(run, model, base, (*peft_tuner.tuner_layers(model), *head))
    state = checkpoint.model_state(model)
    whole = peft_tuner.whole(peft_tuner.config_of(model), base, state, head, *_about(run, task))
    return Export.measured(partial(peft_tuner.write, whole), logits(whole, run, task), trained)


def _base(run: Run, task: Task, dtype: torch.dtype) -> nn.Module:
    """The original base on the CPU; its head is any."""
    return place(build.base(run.model, run.place, task.outputs, 0), CPU, dtype)


def _about(run: Run, task: Task) -> tuple[str | None, str | None]:
    """What PEFT calls the task, and where the base lies."""
    return TASK_TYPES.get(task.outputs.kind), run.model.path or run.model.hub


def _refuse_drawn(run: Run) -> None:
    if run.model.is_drawn:
        raise InputError("the base was drawn from the seed: take --to merged.")  # nobody could have it again


def _has_approximation(run: Run) -> bool:
    """Whether the method ends as the base with other weights, of whose change there can be an approximation."""
    supports = catalog.entry(run.spec.method["name"]).supports
    return supports.merge and supports.starts_at_base and run.model.quantization is None


def _otherwise(run: Run, reason: str) -> InputError:
    """The refusal of an exact adapter, with what can be had in its place."""
    other = ", or --rank R for the best adapter of that rank" if _has_approximation(run) else ""
    return InputError(f"{reason}: take --to merged{other}.")


def _refuse_rounded_remainders(run: Run, layers: Mapping[str, AdaptedLayer]) -> None:
    """Raises InputError where what a start left of the base is quantised: no base of others has it."""
    if run.model.quantization is not None and any(hasattr(layer, "lora_A0") for layer in layers.values()):
        raise InputError(
            f"method={run.spec.method['name']} over {run.model.quantization}: the weights that were quantised are what "
            "its start left of the base, which no adapter can say: take --to merged."
        )


def _refuse_other_changes(run: Run, model: nn.Module, base: nn.Module, held: tuple[str, ...]) -> None:
    """Raises InputError where training has changed more than adapters and head: a frozen layer's running statistics."""
    name = other_change(model, base, held)
    if name is not None:
        raise _otherwise(run, f"{name} has changed in training, for which an adapter has no place")


def other_change(model: nn.Module, base: nn.Module, held: tuple[str, ...]) -> str | None:
    """The first tensor outside of the modules `held` that is not as in the base; None if there is none."""
    original = base.state_dict()
    for name, tensor in checkpoint.model_state(model).items():
        inside = any(name.startswith(f"{module}.") for module in held)
        if not inside and (name not in original or not torch.equal(tensor, original[name])):
            return name
    return None


def _tensors(model: nn.Module, modules: list[str]) -> dict[str, Tensor]:
    """All that these modules hold, by name."""
    return {f"{m}.{n}": t for m in modules for n, t in model.get_submodule(m).state_dict().items()}


def _with(base: nn.Module, layers: Mapping[str, PlainLoRA], others: Mapping[str, Tensor]) -> nn.Module:
    """The original base with the adapter and the other tensors, as PEFT puts them together; nothing is trained."""
    base.requires_grad_(False)
    own = base.state_dict()
    with torch.no_grad():
        for name, tensor in others.items():
            own[name].copy_(tensor)
    replace(base, {name: entry.layer(base.get_submodule(name)) for name, entry in layers.items()})
    return base


def _write(config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(held, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
