"""Builds a base model for a task: with loaded weights, with weights drawn from a seed, or on shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrexp.linalg.random import ambient
from lrexp.models import architecture
from lrexp.models.load import Place, first_line, quiet
from lrexp.models.model_spec import TAKES, ModelSpec, Outputs
from lrexp.spec.errors import InputError

ARTICLE = {"encoder": "an encoder", "decoder": "a decoder", "vision": "a vision model"}
DROPOUT = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "attention_dropout",
    "dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)


def base(spec: ModelSpec, place: Place, outputs: Outputs, seed: int) -> nn.Module:
    """The model in float32, a new head or all of it drawn from `seed`.

    Only weights of the head may be missing in a file. Raises InputError when others are, and for a model of a kind that
    has no such outputs.
    """
    config = _config(spec, place, outputs)
    with ambient(seed):
        if place.folder is None:
            return _from_config(spec, config, outputs, torch.float32)
        try:
            model, info = _auto(outputs).from_pretrained(
                place.folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                local_files_only=True, output_loading_info=True,
            )  # fmt: skip
        except Exception as error:
            raise InputError(f"{place}: the weights do not load for {outputs.kind} ({first_line(error)}).") from error
    _refuse_missing(place, info, spec.head)
    return model


def empty(spec: ModelSpec, place: Place, outputs: Outputs, dtype: torch.dtype) -> nn.Module:
    """The same model with any weights at all: for rehearsals under fake tensors. Raises InputError."""
    config = _config(spec, place, outputs)
    with _undrawn():
        return _from_config(spec, config, outputs, dtype)


def refuse_other_kind(spec: ModelSpec, kind: str) -> None:
    """Raises InputError where a model of this kind is built for other outputs than a task of `kind` asks for."""
    if kind not in TAKES[spec.kind]:
        raise InputError(
            f"model={spec.name} ({spec.kind}) and a data set for {kind} do not go together: "
            f"{ARTICLE[spec.kind]} takes {' and '.join(TAKES[spec.kind])}. Set model= and dataset= to match."
        )


def _from_config(spec: ModelSpec, config: Any, outputs: Outputs, dtype: torch.dtype) -> nn.Module:
    try:
        return _auto(outputs).from_config(config, dtype=dtype, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"model={spec.name}: no model for {outputs.kind} can be built ({first_line(error)})."
        ) from error


@contextmanager
def _undrawn() -> Iterator[None]:
    """Within the block no model draws its weights: a truncated normal draws again by what it sees."""
    from transformers import PreTrainedModel

    drawing = PreTrainedModel.initialize_weights
    PreTrainedModel.initialize_weights = lambda self: None
    try:
        yield
    finally:
        PreTrainedModel.initialize_weights = drawing


def _auto(outputs: Outputs) -> Any:
    """Transformers' class for the outputs."""
    import transformers

    names = {
        "classification": "AutoModelForSequenceClassification",
        "causal_lm": "AutoModelForCausalLM",
        "image_classification": "AutoModelForImageClassification",
    }
    return getattr(transformers, names[outputs.kind])


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise InputError(f"{folder / 'config.json'}: {first_line(error)}") from error


def _config(spec: ModelSpec, place: Place, outputs: Outputs) -> Any:
    quiet()
    if outputs.image_shape is not None:
        from lrexp.models import vision

        vision.register()
    config = architecture.drawn(spec, place) if place.folder is None else _read_config(place.folder)
    if outputs.num_labels:
        config.num_labels = outputs.num_labels
        config.problem_type = outputs.problem_type
    if outputs.image_shape is not None and place.folder is None:
        _fit_to_images(config, spec, outputs.image_shape)
    if spec.dropout is not None:
        for key in DROPOUT:
            if hasattr(config, key):
                setattr(config, key, spec.dropout)
    return config


def _fit_to_images(config: Any, spec: ModelSpec, shape: tuple[int, int, int]) -> None:
    """The sizes that follow the data, but for those that the spec sets."""
    channels, height, width = shape
    sizes = {"num_channels": channels, "image_size": height if height == width else [height, width]}
    for key, size in sizes.items():
        if key not in spec.config:
            setattr(config, key, size)


def _refuse_missing(place: Place, info: Mapping[str, Any], head: tuple[str, ...]) -> None:
    missing = [key for key in sorted(info["missing_keys"]) if not any(part in head for part in key.split("."))]
    if missing:
        raise InputError(f"{place}: {len(missing)} weights of the model are not in its files, {missing[0]} among them.")
