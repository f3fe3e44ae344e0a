"""The model section of a run, and what a task asks of a model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lrexp.spec.convert import from_mapping

Kind = Literal["encoder", "decoder", "vision"]
OutputKind = Literal["classification", "causal_lm", "image_classification"]
TAKES: dict[str, tuple[OutputKind, ...]] = {  # what a kind of model is built for
    "encoder": ("classification",),
    "decoder": ("causal_lm",),
    "vision": ("image_classification",),
}


@dataclass(frozen=True)
class ModelSpec:
    """Where a model comes from and which of its modules every method trains beside its own.

    With `path` or `hub` its weights are loaded, whatever else is set. With neither, `architecture` names its class and
    `config` its sizes in transformers' own words (lrexp.models.architecture says which), its weights are drawn from the
    run's seed, and `tokenizer` or `tokenizer_path` says where its tokenizer is. `quantization` is how linear weights
    that a method has frozen are stored.
    """

    name: str
    kind: Kind = "encoder"
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    tokenizer_path: str | None = None
    dataset: str | None = None
    head: tuple[str, ...] = ("pooler", "classifier")
    learning_rate_factor: float = 1.0
    quantization: Literal["int8", "int4", "nf4"] | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor is {self.learning_rate_factor}: it is above 0")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it lies in [0, 1)")

    @property
    def is_drawn(self) -> bool:
        """Whether the weights are drawn from the seed: nothing of them is loaded."""
        return self.path is None and self.hub is None and self.architecture is not None

    @property
    def reads_text(self) -> bool:
        """Whether it takes tokens, and so needs a tokenizer."""
        return self.kind != "vision"


@dataclass(frozen=True)
class Outputs:
    """What a task asks of a model: the kind of its outputs, and what their shape depends on."""

    kind: OutputKind
    num_labels: int = 0  # classes, or 1 for regression
    problem_type: str | None = None  # transformers' word for it, kept in the config of a saved model
    image_shape: tuple[int, int, int] | None = None  # channels, height, width of what it is fed


def read(section: Mapping[str, Any]) -> ModelSpec:
    """The typed model section. Raises InputError for a wrong key, type or range."""
    return from_mapping(ModelSpec, section, "model")
