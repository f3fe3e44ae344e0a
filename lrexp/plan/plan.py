"""What a spec takes in memory and in operations: its first step on shapes alone, without weights, data or tokenizer.

The largest batch that the data can make is assumed: every sequence of max_length tokens, every image of its size.
Ranks that data decide are those of `Method.bound`. Tensors are counted, by the bytes of their storages; an allocator's
rounding and fragments, a CUDA context, and what an operation takes inside itself come on top. A run on CUDA is planned
with the CPU's operations, but for attention; a compiled run as an eager one.
"""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from lrexp.engine import forward, quantisation, shapes
from lrexp.engine.identify import refuse_combinations, refuse_quantised
from lrexp.engine.precision import DTYPES
from lrexp.engine.tensors import Tensors
from lrexp.methods import catalog
from lrexp.methods.base import Batch, Context, Method
from lrexp.models import build, load, model_spec
from lrexp.optim.build import make_optimizer
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec
from lrexp.tasks import blank, fit
from lrexp.tasks import build as tasks
from lrexp.tasks.base import Task

ENOUGH = 10**9  # steps of a run whose data say how many: every schedule fits into them


@dataclass(frozen=True)
class Plan:
    """Bytes by what they hold, the sum of the parts of training as "peak"; parameters; operations of a step.

    `memory["preparation"]` is the most that is there while the method prepares the model, the base included; None where
    the method looks at data or weights first, which shapes cannot show.
    """

    memory: dict[str, int | None]
    trainable_parameters: int
    flops_per_step: int
    assumed: dict[str, Any]

    @property
    def peak(self) -> int:
        """Bytes in training."""
        peak = self.memory["peak"]
        assert peak is not None
        return peak


@dataclass(frozen=True)
class Ground:
    """What a plan stands on: a spec that is checked, and what its model is built of."""

    spec: RunSpec
    method: Method
    section: model_spec.ModelSpec
    place: load.Place
    task: Task
    context: Context

    def model(self) -> nn.Module:
        """The prepared model, on shapes. Raises InputError for what does not go together."""
        model = build.empty(self.section, self.place, self.task.outputs, self.context.dtype)
        fit.refuse_unfit(self.task, model.config, self.section.name)
        model = self.method.prepare(model, self.method.bound(model), self.context)
        model = quantisation.settle(model, self.section.quantization, self.section.head)
        forward.refuse_unfit(model, self.spec, shapes.CPU)
        if self.context.total_steps and not trained(model):
            raise InputError(f"method={self.spec.method['name']} trains nothing here: set training.max_steps=0.")
        return model


def plan(spec: RunSpec) -> Plan:
    """The plan of a spec. Raises InputError for a spec that cannot run, and where a model's config is not to be had."""
    ground = grounded(spec)
    batch = blank.batch(ground.task, spec.training.per_device_train_batch_size)
    with shapes.on_shapes() as tensors:
        model = ground.model()
        gc.collect()
        preparation = sum(tensors.peak().values())
        count = trained(model)
        found = first_step(ground, model, batch, tensors)
    looks_first = type(ground.method).decide is not Method.decide
    memory = {**found.parts, "preparation": None if looks_first else preparation, "peak": found.peak}
    return Plan(memory, count, found.flops, assumed(ground.spec, ground.task))


def first_step(ground: Ground, model: nn.Module, batch: Batch, tensors: Tensors) -> shapes.Step:
    """The first step on shapes. Raises InputError where it cannot be followed: code of others may look at numbers."""
    try:
        return shapes.first_step(ground.spec, ground.task, ground.method, model, ground.context, batch, tensors)
    except InputError:
        raise
    except RuntimeError as error:
        name = ground.spec.method["name"]
        why = load.first_line(error)
        raise InputError(f"method={name}: a step of it cannot be planned on shapes alone ({why}).") from error


def trainable_parameters(spec: RunSpec) -> int:
    """How many parameters a run trains, without its step. Raises as `plan` does."""
    ground = grounded(spec)
    with shapes.on_shapes():
        return trained(ground.model())


def grounded(spec: RunSpec) -> Ground:
    """The spec checked, its model's config found, a blank task in place of its data. Raises InputError."""
    method = catalog.build(spec.method)
    make_optimizer(spec.optimizer, 1.0)
    refuse_combinations(spec)
    section = model_spec.read(spec.model)
    quantisation.refuse_unfit(spec, section)
    quantisation.refuse_device(spec.on(device_of(spec)), section)
    build.refuse_other_kind(section, tasks.output_kind(spec.dataset))
    place = load.config_place(section)
    refuse_quantised(place)
    task = blank.blank(spec.dataset, image_shape(section, place))
    spec = replace(spec.on(device_of(spec)), training=replace(spec.training, torch_compile=False))
    steps, dtype = spec.training.max_steps, DTYPES[spec.hardware.precision]
    steps = ENOUGH if steps is None else steps
    return Ground(spec, method, section, place, task, Context(spec.seed, steps, shapes.CPU, dtype, section.head))


def trained(model: nn.Module) -> int:
    """The parameters that require a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def device_of(spec: RunSpec) -> Literal["cpu", "cuda"]:
    """Where the run computes: "auto" is CUDA where there is one. CUDA is planned for on any machine."""
    if spec.hardware.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return spec.hardware.device


def image_shape(section: model_spec.ModelSpec, place: load.Place) -> tuple[int, int, int] | None:
    """Channels, height and width of the images that the model's own config speaks of; None where it names no size."""
    config = section.config
    if place.folder is not None:
        config = json.loads((place.folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("image_size")
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return config.get("num_channels", 3), height, width


def assumed(spec: RunSpec, task: Task) -> dict[str, Any]:
    """What the figures hold for."""
    training, image = spec.training, task.outputs.image_shape
    return {
        "device": spec.hardware.device,
        "precision": spec.hardware.precision,
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "tokens": None if image else next(iter(task.demands().values())),
        "image_shape": list(image) if image else None,
    }
