"""One run, whole and resolved: typed, frozen, hashable, to and from YAML.

`spec.yaml` holds `format: 1`, the sections in a fixed order, then `provenance:` (versions, fingerprints, git), which is
a record and no setting. The sections model, dataset, method and optimizer stay plain mappings {"name": choice, ...}:
the floor that owns one makes its own dataclass of it.

What decides the numbers goes into `spec_hash`. Left out are: `experiment` (a label), the section tracking,
training.save_steps and training.logging_steps; method.tuning and model.learning_rate_factor (training.learning_rate
holds what follows from them); the partners model.dataset and dataset.model (they fill what is not chosen); and path,
hub and revision of model and dataset (test_path and test_hub too), the model's tokenizer and tokenizer_path, and
`init_from`, in whose place stand the fingerprints of their content. The output folder is no part of a spec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lrexp.spec import check, yaml_text
from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError

FORMAT = 1
HASH_LENGTH = 10
MOST = 10**12  # of steps or items: more is a slip of the hand
MOST_TOKENS = 10**15
LOCATIONS = {
    "model": ("path", "hub", "revision", "tokenizer", "tokenizer_path"),
    "dataset": ("path", "hub", "revision", "test_path", "test_hub"),
}
UNHASHED = {
    "model": (*LOCATIONS["model"], "dataset", "learning_rate_factor"),
    "dataset": (*LOCATIONS["dataset"], "model"),
    "method": ("tuning",),
    "training": ("save_steps", "logging_steps"),
}
ADDED = {  # hashed only where they say something else: what ran before they came stays found
    "model": {"quantization": None},
    "method": {"lr_multipliers": {}},
    "training": {"drift": False},
    "hardware": {"processes": 1},
}


@dataclass(frozen=True)
class TrainingSpec:
    """How long, how fast and in which batches; what is evaluated and saved when. See conf/training/default.yaml."""

    learning_rate: float | None
    num_train_epochs: float
    max_steps: int | None
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    max_grad_norm: float | None
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]
    warmup_ratio: float
    warmup_steps: int | None
    min_lr_ratio: float
    group_by_length: bool
    save_steps: int | None
    eval_steps: int | None
    logging_steps: int
    selection: Literal["last", "best", "best_on_test"]
    selection_metric: str | None
    gradient_checkpointing: bool = False  # from here on, keys that older frozen specs lack
    torch_compile: bool = False
    per_layer_updates: bool = False
    max_tokens: int | None = None
    drift: bool = False

    def __post_init__(self) -> None:
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "logging_steps",
        ):
            _at_least(name, getattr(self, name), 1)
        for name in ("save_steps", "eval_steps"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_steps", "warmup_steps"):
            _at_least(name, getattr(self, name), 0)
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MOST_TOKENS:
            raise ValueError(f"max_tokens is {self.max_tokens}: it lies in [1, {MOST_TOKENS}]")
        if self.max_tokens is not None and self.max_steps is not None:
            raise ValueError("max_tokens is set with max_steps: one of them says how long, set the other to null")
        for name in ("learning_rate", "num_train_epochs", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}: it is above 0")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}: it lies in [0, 1)")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"min_lr_ratio is {self.min_lr_ratio}: it lies in [0, 1]")
        if self.selection == "last" and self.selection_metric is not None:
            raise ValueError("selection_metric is set while selection is last: set training.selection=best too")
        if self.per_layer_updates and self.max_grad_norm is not None:
            raise ValueError(
                "per_layer_updates is true with max_grad_norm: a norm over all gradients needs them all at once; "
                "set training.max_grad_norm=null"
            )


@dataclass(frozen=True)
class HardwareSpec:
    """Where a run computes. `auto` becomes cuda or cpu before the run is hashed."""

    device: Literal["auto", "cpu", "cuda"]
    threads: int
    precision: Literal["float32", "bf16_autocast", "bf16", "float64"]
    processes: int = 1  # from here on, keys that older frozen specs lack

    def __post_init__(self) -> None:
        _at_least("threads", self.threads, 1)
        _at_least("processes", self.processes, 1)
        if self.threads > 1024:
            raise ValueError(f"threads is {self.threads}: it is at most 1024")


@dataclass(frozen=True)
class TrackingSpec:
    """Where the numbers are mirrored to, beside the run's own folder."""

    name: Literal["none", "wandb"]
    project: str
    run_name: str | None


@dataclass(frozen=True)
class RunSpec:
    """One run. See the module's docstring."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    method: dict[str, Any]
    optimizer: dict[str, Any]
    training: TrainingSpec
    hardware: HardwareSpec
    tracking: TrackingSpec
    seed: int
    init_from: str | None = None  # the folder of a finished run whose weights this one starts from
    experiment: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}: it lies in [0, 4294967295]")

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str = "") -> RunSpec:
        """A checked spec from nested plain values: names, types and the ranges of its own. Raises InputError.

        A learning rate that is null becomes the method's times the model's factor.
        `where` is what messages begin with: empty, or a file's name, a colon and a space.
        """
        spec = from_mapping(cls, check.sections(mapping, where), where)
        return spec if spec.training.learning_rate is not None else spec._with_learning_rate(where)

    @classmethod
    def read(cls, path: str | Path) -> tuple[RunSpec, dict[str, Any]]:
        """The spec in a YAML file and its provenance. Raises InputError for whatever is wrong with it."""
        return cls._parsed(yaml_text.read_file(Path(path)), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> tuple[RunSpec, dict[str, Any]]:
        """The spec in a YAML text and its provenance; `where` is what messages call the text."""
        return cls._parsed(yaml_text.parse(text, where), where)

    @classmethod
    def _parsed(cls, found: dict[str, Any], where: str) -> tuple[RunSpec, dict[str, Any]]:
        number = found.pop("format", None)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{where}: no 'format: {FORMAT}' in it, so it is not a run's spec.yaml")
        if number > FORMAT:
            raise InputError(f"{where}: format {number} was written by a newer lrexp; this one reads format {FORMAT}")
        provenance = found.pop("provenance", None) or {}
        if not isinstance(provenance, dict):
            raise InputError(f"{where}: provenance is not a mapping of keys to values")
        return cls.from_dict(found, f"{where}: "), provenance

    def _with_learning_rate(self, where: str) -> RunSpec:
        base, factor = self.method.get("tuning", {}).get("learning_rate"), self.model.get("learning_rate_factor", 1.0)
        if base is None:
            raise InputError(f"{where}training.learning_rate is null, and there is no method.tuning.learning_rate")
        return replace(self, training=replace(self.training, learning_rate=float(f"{base * factor:.12g}")))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, in the order in which they are written."""
        found = asdict(self)
        return {key: found.pop(key) for key in ("experiment", "seed", "init_from")} | found

    def to_yaml(self, provenance: Mapping[str, Any] | None = None) -> str:
        """The text of spec.yaml: equal specs and provenances give equal bytes."""
        return yaml_text.dump({"format": FORMAT, **self.to_dict(), "provenance": dict(provenance or {})})

    def on(self, device: Literal["cpu", "cuda"]) -> RunSpec:
        """The same run with `hardware.device` settled."""
        return replace(self, hardware=replace(self.hardware, device=device))

    def spec_hash(self, model_fingerprint: str, data_fingerprint: str, init_fingerprint: str | None = None) -> str:
        """The first ten hexadecimal digits of a SHA-256 over all that decides the run's numbers, as canonical JSON."""
        assert self.hardware.device != "auto", "the device is settled before a run is hashed"
        assert self.training.learning_rate is not None, "the learning rate is filled before a run is hashed"
        kept = {
            name: _hashed(name, value)
            for name, value in self.to_dict().items()
            if name not in ("experiment", "init_from", "tracking")
        }
        kept["fingerprints"] = {"model": model_fingerprint, "data": data_fingerprint}
        if init_fingerprint is not None:
            kept["fingerprints"]["init"] = init_fingerprint
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def _hashed(section: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    added = ADDED.get(section, {})
    return {
        key: item
        for key, item in value.items()
        if key not in UNHASHED.get(section, ()) and not (key in added and added[key] == item)
    }


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"{name} is {value}: it is at least {least}")
    if value is not None and value > MOST:
        raise ValueError(f"{name} is {value}: it is at most {MOST}")
