"""Builds or loads a base model: package, local folder or the hub's cache; safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrexp.linalg.random import ambient
from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError

EMBEDDED = Path(__file__).parent / "embedded"


@dataclass(frozen=True)
class ModelSpec:
    """The model section of a run: where the weights come from and which modules every method trains beside its own."""

    name: str
    kind: str = "encoder"
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    dataset: str | None = None
    head: tuple[str, ...] = ("pooler", "classifier")
    learning_rate_factor: float = 1.0
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor is {self.learning_rate_factor}: it is above 0")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it lies in [0, 1)")


def quiet() -> None:
    """Keeps transformers from reporting what is expected (a new head) and from drawing bars, but for LREXP_DEBUG=1."""
    from transformers.utils import logging

    if os.environ.get("LREXP_DEBUG") != "1":
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def read(section: Mapping[str, Any]) -> ModelSpec:
    """The typed model section. Raises InputError for a wrong key, type or range."""
    return from_mapping(ModelSpec, section, "model")


def folder(spec: ModelSpec) -> Path:
    """The local folder of a model, downloaded if needed and possible. Raises InputError with what is missing."""
    if spec.path is not None:
        place = Path(spec.path).expanduser()
        if not place.is_dir():
            raise InputError(f"model.path={spec.path}: no such folder. Give a folder written by save_pretrained.")
        return _checked(place)
    if spec.name == "embedded":
        return _checked(EMBEDDED)
    if spec.hub is None:
        raise InputError(f"model={spec.name}: neither model.path nor model.hub is set.")
    return _from_hub(spec)


def _from_hub(spec: ModelSpec) -> Path:
    from lrexp.models import hub

    assert spec.hub is not None
    found = hub.cached(spec.hub, spec.revision)
    if found is None or found.lacks:
        found = hub.download(spec.hub, spec.revision, spec.name)
    return _checked(found.folder)


def _checked(place: Path) -> Path:
    """The folder, if it holds a readable config and safetensors weights."""
    config = place / "config.json"
    if not config.is_file():
        raise InputError(f"{place}: no config.json there. A model's folder is one written by save_pretrained.")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{config}: not readable as JSON ({error.__class__.__name__}).") from error
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"{place}: no *.safetensors there; lrexp loads no pickled weights. Convert them with save_pretrained."
        )
    for file in files:
        _check_safetensors(file)
    return place


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):  # checks the header against the file's length
            pass
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: damaged or cut short ({_first_line(error)}).") from error


def fingerprint(place: Path) -> str:
    """A hash of the model's weights, config and tokenizer by content, not by path."""
    digest = hashlib.sha256()
    names = ["*.safetensors", "config.json", "tokenizer*.json", "vocab.*", "merges.txt", "special_tokens_map.json"]
    for file in sorted({f for pattern in names for f in place.glob(pattern)}):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def tokenizer(place: Path) -> Any:
    """The model's fast tokenizer. Raises InputError if the folder has none."""
    from transformers import AutoTokenizer

    quiet()
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise InputError(f"{place}: no tokenizer could be read there ({_first_line(error)}).") from error


def _config(spec: ModelSpec, place: Path, num_labels: int, problem_type: str | None) -> Any:
    from transformers import AutoConfig

    quiet()
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise InputError(f"{place / 'config.json'}: {_first_line(error)}") from error
    config.num_labels = num_labels
    config.problem_type = problem_type  # pyright: ignore[reportAttributeAccessIssue]
    if spec.dropout is not None:
        for key in (
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout",
            "attention_dropout",
            "dropout",
        ):
            if hasattr(config, key):
                setattr(config, key, spec.dropout)
    return config


def classifier(spec: ModelSpec, place: Path, num_labels: int, problem_type: str | None, seed: int) -> nn.Module:
    """A sequence classifier in float32 with a new head drawn from `seed`, in training order of the base's own modules.

    Only weights of the head may be missing in the file. Raises InputError when others are.
    """
    from transformers import AutoModelForSequenceClassification

    config = _config(spec, place, num_labels, problem_type)
    with ambient(seed):
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                place, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                local_files_only=True, output_loading_info=True,
            )  # fmt: skip
        except Exception as error:
            raise InputError(f"{place}: the weights do not load as a classifier ({_first_line(error)}).") from error
    _refuse_missing(place, info, spec.head)
    return model


def _refuse_missing(place: Path, info: Mapping[str, Any], head: tuple[str, ...]) -> None:
    missing = [key for key in sorted(info["missing_keys"]) if not any(part in head for part in key.split("."))]
    if missing:
        raise InputError(f"{place}: {len(missing)} weights of the model are not in its files, {missing[0]} among them.")


def classifier_from_config(
    spec: ModelSpec, place: Path, num_labels: int, problem_type: str | None, dtype: torch.dtype
) -> nn.Module:
    """The same model with whatever weights its classes draw: for rehearsals under fake tensors."""
    from transformers import AutoModelForSequenceClassification

    config = _config(spec, place, num_labels, problem_type)
    try:
        return AutoModelForSequenceClassification.from_config(config, dtype=dtype, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"{place}: no sequence classifier can be built ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
