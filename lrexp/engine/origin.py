"""What a run starts from in place of the base alone (`init_from`): a finished run, or an adapter in PEFT's format."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrexp.engine import finished as kept_by
from lrexp.engine.finished import Finished, Shapes
from lrexp.layers import peft_adapter
from lrexp.methods import catalog
from lrexp.methods.base import Context, Decisions, Method
from lrexp.models.model_spec import ModelSpec
from lrexp.spec import yaml_text
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec

ABLE = {"a LoRA": ("lora", "lora_plus"), "a DoRA": ("dora",), "an AdaLoRA": ("adalora",)}  # methods of such layers


class Stored(NamedTuple):
    """All that a run kept, or as much of it as there is."""

    tensors: Mapping[str, Tensor]
    decisions: Decisions


class Origin(ABC):
    """Weights to start from."""

    folder: Path
    mark: str  # what the row of the run says
    fingerprint: str
    spec_hash: str | None = None  # of the run that they come from

    @abstractmethod
    def has_head(self, data_fingerprint: str) -> bool:
        """Whether their head goes along: a head belongs to its data."""

    @abstractmethod
    def refuse_other(self, spec: RunSpec, method: Method, model: ModelSpec, model_fingerprint: str) -> None:
        """Raises InputError where they would be another function in a run of this spec."""

    @abstractmethod
    def shapes(self) -> Shapes:
        """Of what is stored, by names in the prepared model. Raises InputError for a damaged file."""

    @abstractmethod
    def decisions(self, device: torch.device) -> Decisions:
        """What was decided for them."""

    @abstractmethod
    def stored(self, context: Context) -> Stored:
        """The weights and what was decided for them; what is missing is drawn. Raises InputError for damaged files."""

    @abstractmethod
    def refuse_misfits(self, prepared: nn.Module) -> None:
        """Raises InputError where the layers of the prepared model, on shapes, would use them otherwise."""


class RunOrigin(Origin):
    """A finished run of the same method and base. Raises InputError for one whose weights are missing."""

    def __init__(self, run: Finished, keeps_base: bool) -> None:
        self.run, self.keeps_base, self.folder = run, keeps_base, run.folder
        result = run.result
        self.mark = f"starts from {result['name']}, seed {result['seed']} ({result['spec_hash']})"
        self.fingerprint = kept_by.fingerprint(run.folder, keeps_base)
        self.spec_hash = run.facts.get("spec_hash")

    def has_head(self, data_fingerprint: str) -> bool:
        """Whether the data are the same."""
        return self.run.facts.get("data_fingerprint") == data_fingerprint

    def shapes(self) -> Shapes:
        """Of what the run kept."""
        return kept_by.shapes(self.folder, self.keeps_base)

    def decisions(self, device: torch.device) -> Decisions:
        """What the run decided."""
        return kept_by.decisions(self.folder, device)

    def stored(self, context: Context) -> Stored:
        """What the run kept."""
        return Stored(kept_by.tensors(self.folder, self.keeps_base), self.decisions(context.device))

    def refuse_other(self, spec: RunSpec, method: Method, model: ModelSpec, model_fingerprint: str) -> None:
        """Raises InputError for another method, base or setting."""
        other = self._other_method_or_base(spec, method, model, model_fingerprint)
        if other is not None:
            raise InputError(
                f"init_from={self.folder}: {other}. To start from its outcome: lrexp export {self.folder} --to merged "
                "--out DIR, then model.path=DIR."
            )
        then, now = (asdict(each.hyperparameters) for each in (catalog.build(self.run.spec.method), method))
        differing = [
            f"{key} {_shown(then[key])}, this one {_shown(value)}"
            for key, value in now.items()
            if key not in method.may_differ and json.dumps(then[key]) != json.dumps(value)  # patterns' order counts
        ]
        if differing:
            raise InputError(f"init_from={self.folder}: the run has {'; '.join(differing)}: they must agree.")

    def refuse_misfits(self, prepared: nn.Module) -> None:
        """Nothing: equal settings make equal layers."""

    def _other_method_or_base(
        self, spec: RunSpec, method: Method, model: ModelSpec, model_fingerprint: str
    ) -> str | None:
        """What is other about the run that an adapter comes from, None if nothing is; a whole model needs no base."""
        name, theirs = spec.method["name"], self.run.spec.method["name"]
        if name != theirs:
            return f"that run's method is {theirs}, this one's {name}"
        if not method.keeps_base:
            return None
        if self.run.facts.get("model_fingerprint") != model_fingerprint:
            return "its base is another model"
        then = self.run.spec.model.get("quantization")
        if then != model.quantization:
            return f"its base has model.quantization={then or 'null'}, this one {model.quantization or 'null'}"
        if model.is_drawn and self.run.spec.seed != spec.seed:  # the fingerprint is of the sizes, not of what is drawn
            return f"its base was drawn from seed {self.run.spec.seed}"
        return None


class AdapterOrigin(Origin):
    """An adapter in PEFT's format, for the original base. Raises InputError for a kind that is not taken."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.adapter = folder, peft_adapter.read(folder)
        self.mark = f"starts from an adapter in PEFT's format (of {self.adapter.base or 'a base without a name'})"
        self.fingerprint = self.adapter.fingerprint()

    def has_head(self, data_fingerprint: str) -> bool:
        """Whether it holds one: whose labels these are cannot be known."""
        return self.adapter.has_head

    def shapes(self) -> Shapes:
        """By our names."""
        return self.adapter.shapes()

    def decisions(self, device: torch.device) -> Decisions:
        """None: the methods that take it decide nothing."""
        return Decisions()

    def stored(self, context: Context) -> Stored:
        """The adapter's tensors."""
        return Stored(self.adapter.tensors(context.generator), Decisions())

    def refuse_other(self, spec: RunSpec, method: Method, model: ModelSpec, model_fingerprint: str) -> None:
        """Raises InputError for a method of other layers."""
        able = ABLE[self.adapter.kind]
        if spec.method["name"] not in able:
            raise InputError(
                f"init_from={self.folder}: is {self.adapter.kind} on the original base: take method="
                f"{' or method='.join(able)}."
            )

    def refuse_misfits(self, prepared: nn.Module) -> None:
        """Raises InputError for other places, ranks or scales."""
        self.adapter.refuse_misfits(prepared)


def read(folder: Path, keeps_base: bool, is_frozen: bool) -> Origin:
    """What lies in the folder that `init_from` names, in a frozen spec or a new one. Raises InputError."""
    if (folder / peft_adapter.CONFIG).is_file():
        return AdapterOrigin(folder)
    try:
        return RunOrigin(kept_by.read(folder), keeps_base)
    except InputError as error:
        has_moved = is_frozen and not (folder / "spec.yaml").is_file()
        advice = " Give init_from=DIR, where it lies now." if has_moved else ""
        raise InputError(f"init_from={folder}: {str(error).removeprefix(f'{folder}: ')}{advice}") from error


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else yaml_text.written(value)
