"""A spec made concrete: method, model and device found and checked, what decides the numbers hashed; writes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lrexp.engine import finished, provenance
from lrexp.engine.finished import Finished
from lrexp.methods import catalog
from lrexp.methods.base import Method
from lrexp.models import build, load, model_spec
from lrexp.optim.build import make_optimizer
from lrexp.spec import choices
from lrexp.spec.convert import from_mapping
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
    origin: Finished | None = None  # the run whose weights this one starts from

    @property
    def name(self) -> str:
        """What the run is called in folders and tables."""
        return self.spec.experiment or f"{self.spec.dataset['name']}-{self.spec.model['name']}"

    @property
    def has_new_head(self) -> bool:
        """Whether the head of `origin` stays behind: a head belongs to its data."""
        then = self.origin and self.origin.facts.get("data_fingerprint")
        return then != self.facts["data_fingerprint"]


def identify(spec: RunSpec, then: dict[str, Any] | None = None) -> Run:
    """Checks ranges and combinations, resolves the device, hashes what decides the numbers.

    `then` is the provenance of a frozen spec: where versions or data have changed since, the row is marked. Raises
    InputError.
    """
    method = build_method(spec)
    make_optimizer(spec.optimizer, 1.0)
    spec = whole(spec)
    device = resolve(spec.hardware.device)
    spec = spec.on("cuda" if device.type == "cuda" else "cpu")
    refuse_combinations(spec, method)
    model = model_spec.read(spec.model)
    build.refuse_other_kind(model, tasks.output_kind(spec.dataset))
    place = load.place(model)
    facts: dict[str, Any] = {
        "model_fingerprint": load.fingerprint(model, place),
        "data_fingerprint": tasks.fingerprint(spec.dataset),
        "versions": provenance.versions() | catalog.versions(spec.method["name"]),
        "git": provenance.git(),
    }
    origin = None
    if spec.init_from is not None:
        origin = read_origin(Path(spec.init_from), spec, method, facts["model_fingerprint"])
        facts["init_fingerprint"] = finished.fingerprint(origin.folder, method.keeps_base)
        facts["init_spec_hash"] = origin.facts.get("spec_hash")
    facts["spec_hash"] = spec.spec_hash(
        facts["model_fingerprint"], facts["data_fingerprint"], facts.get("init_fingerprint")
    )
    marks = provenance.differences(then, facts) if then else []
    if origin is not None:
        marks.append(f"starts from {origin.result['name']}, seed {origin.result['seed']}")
    if method.keeps_base and model.is_drawn:
        marks.append("adapters on drawn weights")
    if spec.training.selection == "best_on_test":
        marks.append("selected on test")
    return Run(spec, method, model, place, device, facts, marks, origin)


def read_origin(folder: Path, spec: RunSpec, method: Method, model_fingerprint: str) -> Finished:
    """The finished run that `init_from` names. Raises InputError for one that this spec cannot go on from."""
    try:
        origin = finished.read(folder)
    except InputError as error:
        raise InputError(f"init_from={folder}: {str(error).removeprefix(f'{folder}: ')}") from error
    name, theirs = spec.method["name"], origin.spec.method["name"]
    other_base = method.keeps_base and origin.facts.get("model_fingerprint") != model_fingerprint
    if name != theirs or other_base:
        differs = f"that run's method is {theirs}, this one's {name}" if name != theirs else "its base is another model"
        raise InputError(
            f"init_from={folder}: {differs}. To start from its outcome: lrexp export {folder} --to merged --out DIR, "
            "then model.path=DIR."
        )
    return origin


def whole(spec: RunSpec) -> RunSpec:
    """The spec with a model and a data set that are whole.

    Such that lrexp does not ship may leave keys out; they are written out as they are taken today, so that the frozen
    spec means the same in every version. Raises InputError for a wrong key, type or range.
    """
    read = {"model": model_spec.read(spec.model), "dataset": tasks.check(spec.dataset)}
    own = {group: found for group, found in read.items() if not choices.is_shipped(group, found.name)}
    return replace(spec, **{group: json.loads(json.dumps(asdict(found))) for group, found in own.items()})


def build_method(spec: RunSpec) -> Method:
    """The method's instance with its checked hyperparameters."""
    section = {k: v for k, v in spec.method.items() if k not in ("name", "tuning")}
    cls = catalog.load(spec.method["name"])
    return cls(from_mapping(cls.Hyperparameters, section, "method"))


def resolve(device: str) -> torch.device:
    """The device that `hardware.device` names. Raises InputError where there is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("hardware=cuda: torch sees no CUDA device here. hardware=cpu runs everywhere.")
    return torch.device(device)


def refuse_combinations(spec: RunSpec, method: Method) -> None:
    """Raises InputError for what the method says that it cannot be combined with."""
    name = spec.method["name"]
    if spec.training.gradient_accumulation_steps > 1 and not method.supports.accumulation:
        raise InputError(
            f"method={name} does not accumulate gradients: training.gradient_accumulation_steps is 1 for it."
        )
    if spec.hardware.precision == "bf16" and not method.supports.bf16:
        raise InputError(f"method={name} does not train bf16 weights: use hardware.precision=bf16_autocast or float32.")
