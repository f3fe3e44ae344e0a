"""A spec made concrete: method, model and device found and checked, what decides the numbers hashed; writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lrexp.engine import origin as origins
from lrexp.engine import provenance, quantisation
from lrexp.engine.origin import Origin
from lrexp.layers.quantisers import require
from lrexp.methods import catalog
from lrexp.methods.base import Method
from lrexp.models import build, load, model_spec
from lrexp.optim.build import make_optimizer
from lrexp.spec import choices
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec
from lrexp.tasks import build as tasks


@dataclass(frozen=True)
class Run:
    """A spec and what is known of it before any data is read."""

    spec: RunSpec
    method: Method
    model: model_spec.ModelSpec
    place: load.Place
    device: torch.device
    facts: dict[str, Any]  # fingerprints, versions, git, spec_hash: the provenance of spec.yaml
    marks: list[str]
    origin: Origin | None = None  # the weights that it starts from

    @property
    def name(self) -> str:
        """What the run is called in folders and tables."""
        return self.spec.experiment or f"{self.spec.dataset['name']}-{self.spec.model['name']}"

    @property
    def has_new_head(self) -> bool:
        """Whether the head of `origin` stays behind."""
        return self.origin is None or not self.origin.has_head(self.facts["data_fingerprint"])


def resolve(device: str) -> torch.device:
    """The device that `hardware.device` names. Raises InputError where there is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("hardware=cuda: torch sees no CUDA device here. hardware=cpu runs everywhere.")
    return torch.device(device)


def identify(
    spec: RunSpec, then: dict[str, Any] | None = None, resolve: Callable[[str], torch.device] = resolve
) -> Run:
    """Checks ranges and combinations, resolves the device, hashes what decides the numbers.

    `then` is the provenance of a frozen spec: where versions or data have changed since, the row is marked. `resolve`
    is another one where the run's device is not one of this machine. Raises InputError.
    """
    method = catalog.build(spec.method)
    make_optimizer(spec.optimizer, 1.0)
    spec = whole(spec)
    device = resolve(spec.hardware.device)
    spec = spec.on("cuda" if device.type == "cuda" else "cpu")
    refuse_combinations(spec)
    model = model_spec.read(spec.model)
    quantisation.refuse_unfit(spec, model)
    if model.quantization is not None:
        require(model.quantization)
    build.refuse_other_kind(model, tasks.output_kind(spec.dataset))
    place = load.place(model)
    refuse_quantised(place)
    facts: dict[str, Any] = {
        "model_fingerprint": load.fingerprint(model, place),
        "data_fingerprint": tasks.fingerprint(spec.dataset),
        "versions": provenance.versions() | catalog.versions(spec.method["name"]) | quantisation.versions(model),
        "git": provenance.git(),
    }
    origin = None
    if spec.init_from is not None:
        origin = origins.read(Path(spec.init_from).expanduser(), method.keeps_base, then is not None)
        origin.refuse_other(spec, method, model, facts["model_fingerprint"])
        facts["init_fingerprint"] = origin.fingerprint
        facts["init_spec_hash"] = origin.spec_hash
    facts["spec_hash"] = spec.spec_hash(
        facts["model_fingerprint"], facts["data_fingerprint"], facts.get("init_fingerprint")
    )
    marks = provenance.differences(then, facts) if then else []
    if origin is not None:
        marks.append(origin.mark)
    if model.is_drawn and catalog.families().get(spec.method["name"]) == "adapters":
        marks.append("adapters on drawn weights")
    if spec.training.selection == "best_on_test":
        marks.append("selected on test")
    return Run(spec, method, model, place, device, facts, marks, origin)


def whole(spec: RunSpec) -> RunSpec:
    """The spec with a model and a data set that are whole.

    Such that lrexp does not ship may leave keys out; they are written out as they are taken today, so that the frozen
    spec means the same in every version. Raises InputError for a wrong key, type or range.
    """
    read = {"model": model_spec.read(spec.model), "dataset": tasks.check(spec.dataset)}
    own = {group: found for group, found in read.items() if not choices.is_shipped(group, found.name)}
    return replace(spec, **{group: json.loads(json.dumps(asdict(found))) for group, found in own.items()})


def refuse_combinations(spec: RunSpec) -> None:
    """Raises InputError for what the method says that it cannot be combined with."""
    name = spec.method["name"]
    supports = catalog.entry(name).supports
    if spec.training.gradient_accumulation_steps > 1 and not supports.accumulation:
        raise InputError(
            f"method={name} does not accumulate gradients: training.gradient_accumulation_steps is 1 for it."
        )
    if spec.hardware.precision == "bf16" and not supports.bf16:
        raise InputError(f"method={name} does not train bf16 weights: use hardware.precision=bf16_autocast or float32.")
    if spec.training.per_layer_updates and not supports.per_layer:
        raise InputError(f"method={name} needs all gradients of a step at once: set training.per_layer_updates=false.")


def refuse_quantised(place: load.Place) -> None:
    """Raises InputError where the weights in the folder are stored in fewer bits: a run quantises them itself."""
    kind = load.quantisation(place)
    if kind is not None:
        raise InputError(
            f"{place}: its weights are quantised ({kind}): take the original, with model.quantization=int8 or the like."
        )
