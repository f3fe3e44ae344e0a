"""A spec made concrete: method, model and device found and checked, what decides the numbers hashed; writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from lrexp.spec import choices, yaml_text
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
    method = build_method(spec)
    make_optimizer(spec.optimizer, 1.0)
    spec = whole(spec)
    device = resolve(spec.hardware.device)
    spec = spec.on("cuda" if device.type == "cuda" else "cpu")
    refuse_combinations(spec)
    model = model_spec.read(spec.model)
    build.refuse_other_kind(model, tasks.output_kind(spec.dataset))
    place = load.place(model)
    refuse_quantised(spec.method["name"], place)
    facts: dict[str, Any] = {
        "model_fingerprint": load.fingerprint(model, place),
        "data_fingerprint": tasks.fingerprint(spec.dataset),
        "versions": provenance.versions() | catalog.versions(spec.method["name"]),
        "git": provenance.git(),
    }
    origin = None
    if spec.init_from is not None:
        origin = read_origin(Path(spec.init_from).expanduser(), then is not None)
        refuse_other_start(origin, spec, method, model, facts["model_fingerprint"])
        facts["init_fingerprint"] = finished.fingerprint(origin.folder, method.keeps_base)
        facts["init_spec_hash"] = origin.facts.get("spec_hash")
    facts["spec_hash"] = spec.spec_hash(
        facts["model_fingerprint"], facts["data_fingerprint"], facts.get("init_fingerprint")
    )
    marks = provenance.differences(then, facts) if then else []
    if origin is not None:
        which = origin.result
        marks.append(f"starts from {which['name']}, seed {which['seed']} ({which['spec_hash']})")
    if model.is_drawn and catalog.families().get(spec.method["name"]) == "adapters":
        marks.append("adapters on drawn weights")
    if spec.training.selection == "best_on_test":
        marks.append("selected on test")
    return Run(spec, method, model, place, device, facts, marks, origin)


def read_origin(folder: Path, is_frozen: bool) -> Finished:
    """The finished run that `init_from` names, in a frozen spec or a new one. Raises InputError where there is none."""
    try:
        return finished.read(folder)
    except InputError as error:
        has_moved = is_frozen and not (folder / "spec.yaml").is_file()
        advice = " Give init_from=DIR, where it lies now." if has_moved else ""
        raise InputError(f"init_from={folder}: {str(error).removeprefix(f'{folder}: ')}{advice}") from error


def refuse_other_start(
    origin: Finished, spec: RunSpec, method: Method, model: model_spec.ModelSpec, model_fingerprint: str
) -> None:
    """Raises InputError where the weights of `origin` would be another function in a run of this spec."""
    other = _other_method_or_base(origin, spec, method, model, model_fingerprint)
    if other is not None:
        raise InputError(
            f"init_from={origin.folder}: {other}. To start from its outcome: lrexp export {origin.folder} --to merged "
            "--out DIR, then model.path=DIR."
        )
    then, now = (asdict(each.hyperparameters) for each in (build_method(origin.spec), method))
    differing = [
        f"{key} {_shown(then[key])}, this one {_shown(value)}"
        for key, value in now.items()
        if key not in method.may_differ and json.dumps(then[key]) != json.dumps(value)  # the order of patterns counts
    ]
    if differing:
        raise InputError(f"init_from={origin.folder}: the run has {'; '.join(differing)}: they must agree.")


def _other_method_or_base(
    origin: Finished, spec: RunSpec, method: Method, model: model_spec.ModelSpec, model_fingerprint: str
) -> str | None:
    """What is other about the run that an adapter comes from, None if nothing is; a whole model needs no base."""
    name, theirs = spec.method["name"], origin.spec.method["name"]
    if name != theirs:
        return f"that run's method is {theirs}, this one's {name}"
    if not method.keeps_base:
        return None
    if origin.facts.get("model_fingerprint") != model_fingerprint:
        return "its base is another model"
    if model.is_drawn and origin.spec.seed != spec.seed:  # the fingerprint is of the sizes, not of what is drawn
        return f"its base was drawn from seed {origin.spec.seed}"
    return None


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else yaml_text.written(value)


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


def refuse_quantised(name: str, place: load.Place) -> None:
    """Raises InputError where the base's weights are stored in fewer bits and the method needs them as they are."""
    kind = load.quantisation(place)
    if kind is not None and not catalog.entry(name).supports.quantised_base:
        raise InputError(
            f"{place}: its weights are quantised ({kind}), and method={name} needs them as they are: take the original."
        )
