"""Drives a method on a model of one layer through the life of a run: what the replays of adapters share.

The order of the hooks is that of the engine; the case gives inputs, cotangents and starting values.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lrexp.engine.gradients import clip
from lrexp.layers.lora_layer import LoRALayer
from lrexp.methods.base import Batch, Context, Decisions, Method, Micro, Training
from lrexp.optim.build import OPTIMIZERS, make_optimizer
from lrexp.spec.errors import InputError
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome

TARGET = "layer"  # the only module of the model


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear with the given weight (out, in) and bias."""
    out, inn = weight.shape
    return _filled(skip_init(nn.Linear, inn, out, bias=bias is not None, dtype=weight.dtype), weight, bias)


def conv2d(weight: Tensor, bias: Tensor | None, settings: Mapping[str, Any]) -> nn.Conv2d:
    """A Conv2d with the given weight (out, in, kh, kw) and bias; stride, padding, dilation, groups from `settings`."""
    groups = settings.get("groups", 1)
    geometry = {key: _pair(settings[key]) for key in ("stride", "padding", "dilation") if key in settings}
    out, inn, *kernel = weight.shape
    layer = skip_init(
        nn.Conv2d,
        inn * groups,
        out,
        tuple(kernel),
        bias=bias is not None,
        groups=groups,
        dtype=weight.dtype,
        **geometry,
    )
    return _filled(layer, weight, bias)


def embedding(weight: Tensor, padding_idx: int | None) -> nn.Embedding:
    """An Embedding with the given table (V, d)."""
    V, d = weight.shape
    return _filled(skip_init(nn.Embedding, V, d, padding_idx=padding_idx, dtype=weight.dtype), weight, None)


def _pair(value: int | str | list[int]) -> int | str | tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else value


def _filled(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def one_layer(layer: nn.Module, name: str = TARGET) -> nn.Sequential:
    """A model that is one layer under this name."""
    return nn.Sequential(OrderedDict([(name, layer)]))


def context(case: Case) -> Context:
    """The run's context: trained parameters in the precision of the case's `A_init`, or of its weight without one."""
    steps = len(x) if (x := case.get("x")) is not None else 1
    start = case.get("A_init")
    dtype = (case["W"] if start is None else start).dtype
    return Context(seed=0, total_steps=steps, device=torch.device("cpu"), dtype=dtype)


def prepare(method: Method, base: nn.Module, case: Case, name: str = TARGET) -> tuple[nn.Module, LoRALayer]:
    """The model of that one layer as the method prepares it, and its LoRA layer."""
    model = method.prepare(one_layer(base, name), Decisions(), context(case))
    layer = model.get_submodule(name)
    assert isinstance(layer, LoRALayer)
    return model, layer


def lora_section(case: Case, **others: Any) -> dict[str, Any]:
    """The hyperparameters that LoRA and its kin share, as a spec's section, from a case's own words; and others."""
    given = case.hyperparameters
    shared = {"r": given["r"], "lora_alpha": given["alpha"], "use_rslora": given.get("use_rslora", False)}
    return shared | {"target_modules": [TARGET]} | others


def inject(parameter: Tensor, value: Tensor) -> None:
    """Sets a parameter or buffer to the case's value, which has to be of its shape and dtype."""
    if parameter.shape != value.shape or parameter.dtype != value.dtype:
        ours, theirs = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (parameter, value))
        raise InputError(f"the case gives {theirs} where the layer holds {ours}")
    with torch.no_grad():
        parameter.copy_(value)


def base_optimizer(hyperparameters: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """The case's optimizer as a spec's section, and its learning rate.

    The case holds a mapping, or a name whose settings stand beside it; what it does not give is torch's default.
    """
    given = hyperparameters["optimizer"]
    beside = hyperparameters if isinstance(given, str) else given
    name = (given if isinstance(given, str) else given["name"]).lower()
    if name not in OPTIMIZERS:
        raise InputError(f"unknown optimizer {name!r}")
    optimizer = OPTIMIZERS[name]
    defaults = inspect.signature(optimizer.cls).parameters
    known = {field.name: defaults[field.name].default for field in fields(optimizer.settings)}
    section = {"name": name} | {key: beside.get(key, default) for key, default in known.items()}
    if not isinstance(given, str):  # a setting that we do not know is refused where the section is read
        section |= {key: value for key, value in given.items() if key not in ("name", "lr")}
    return section, float(beside["lr"] if "lr" in beside else hyperparameters["lr"])


def train(method: Method, model: nn.Module, case: Case, watched: Mapping[str, nn.Parameter]) -> Outcome:
    """Trains on the inputs `x` and cotangents `g` of the case, one step each (loss = sum(y * g)).

    Gives y (every output before its update), and for all `watched` grad<n>_<name> of every step n from 1, <name>_steps
    (after each) and <name>_final. What dropout makes of the inputs is the case's `x_dropped`; gradients are clipped
    where it has a `clip`.
    """
    xs, gs, dropped = case["x"], case["g"], case.get("x_dropped")
    section, rate = base_optimizer(case.hyperparameters)
    optimizer = method.build_optimizer(method.parameter_groups(model), make_optimizer(section, rate))
    outputs: list[Tensor] = []
    outcome, steps = Outcome(), {name: [] for name in watched}

    def cotangent_loss(model: nn.Module, batch: Batch) -> Tensor:
        y = model(batch["x"])
        outputs.append(y.detach())
        at_least = torch.promote_types(batch["g"].dtype, torch.float32)  # the sum is never rounded to half precision
        return (y.to(at_least) * batch["g"]).sum()

    model.train()
    for step in range(len(xs)):
        training = Training(optimizer, step)
        method.before_step(step)
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = group["base_lr"] * method.lr_multiplier(step, index)
        with contextlib.nullcontext() if dropped is None else given_dropout(dropped[step]):
            loss = method.loss(model, {"x": xs[step], "g": gs[step]}, cotangent_loss, Micro(0, True, 1.0))
        loss.backward()
        for name, parameter in watched.items():
            outcome.tensors[f"grad{step + 1}_{name}"] = _gradient(parameter)
        method.gradients_ready(step, training)
        clip(watched.values(), case.hyperparameters.get("clip"))
        method.before_update(step, training)
        optimizer.step()
        method.after_update(step, training)
        optimizer.zero_grad(set_to_none=True)
        for name, parameter in watched.items():
            steps[name].append(parameter.detach().clone())
    outcome.tensors["y"] = torch.stack(outputs)
    for name, values in steps.items():
        outcome.tensors |= {f"{name}_steps": torch.stack(values), f"{name}_final": values[-1]}
    return outcome


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()


def evaluate(model: nn.Module, x: Tensor) -> Tensor:
    """The output for x without dropout."""
    model.eval()
    with torch.no_grad():
        return model(x)


def train_lora(method: Method, model: nn.Module, layer: LoRALayer, case: Case, **others: nn.Parameter) -> Outcome:
    """`train` of the factors and of others; then y_final (without dropout), W_merged and y_merged (through it alone).

    `scaling` is among the results. The model is merged in place.
    """
    outcome = train(method, model, case, {"A": layer.lora_A, "B": layer.lora_B, **others})
    outcome.results["scaling"] = layer.scaling
    x = case["x"][0]
    outcome.tensors["y_final"] = evaluate(model, x)
    merged = method.finalize(model)
    (plain,) = merged.children()
    outcome.tensors |= {"W_merged": plain.weight, "y_merged": evaluate(merged, x)}  # type: ignore[dict-item]
    return outcome


def train_from_taken_start(method: Method, case: Case) -> tuple[Outcome, LoRALayer]:
    """Gives a start that is taken from the base (A_init, B_init, BA_init, W_res), and trains from the stored one."""
    model, layer = prepare(method, linear(case["W"], case.get("b")), case)
    start = {"A_init": layer.lora_A, "B_init": layer.lora_B, "W_res": layer.weight}
    found = {name: tensor.detach().clone() for name, tensor in start.items()} | {"BA_init": product(layer)}
    for name, tensor in (*start.items(), ("A_init", layer.lora_A0), ("B_init", layer.lora_B0)):
        inject(tensor, case[name])  # type: ignore[arg-type]
    outcome = train_lora(method, model, layer, case)
    outcome.tensors |= found | {"BA_final": product(layer)}
    return outcome, layer


def product(layer: LoRALayer) -> Tensor:
    """B A of a layer's factors, in their precision."""
    return layer.delta_weight(layer.lora_A.dtype).detach() / layer.scaling


@contextlib.contextmanager
def given_dropout(dropped: Tensor) -> Iterator[None]:
    """Within the block dropout, wherever called, gives `dropped`: the draw is the case's, all else the layer's."""
    own = F.dropout

    def given(input: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        assert input.shape == dropped.shape, "dropout of something else than the case's input"
        return dropped

    F.dropout = given
    try:
        yield
    finally:
        F.dropout = own
