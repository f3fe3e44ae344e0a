"""The dataset section of a run on running text: keys, types and ranges. No torch here."""

from dataclasses import dataclass
from typing import Literal

METRICS = ("loss", "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class LanguageData:
    """Keys of `dataset` for causal language models; what they mean stands in conf/dataset/*.yaml.

    Raises:
        ValueError: a value out of range, beginning with the key's name.
    """

    name: str
    source: Literal["text", "stdlib"]
    model: str = "llama_tiny"
    task: Literal["causal_lm"] = "causal_lm"
    path: str | None = None
    text_column: str = "text"
    packing: bool = True
    max_length: int = 128
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    validation_fraction: float = 0.1
    primary_metric: Literal["loss", "perplexity", "bits_per_byte"] = "perplexity"

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise ValueError(f"max_length is {self.max_length}: it counts tokens of a sequence, and is at least 4")
        for key in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}: it is at least 1, or null for all sequences")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}: it lies between 0 and 1")
