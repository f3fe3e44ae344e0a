"""The dataset section of a run on text that is too much to be read whole: keys, types and ranges. No torch here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StreamedData:
    """Keys of `dataset` for streamed text; what they mean stands in conf/dataset/c4.yaml.

    Raises:
        ValueError: a value out of range, beginning with the key's name.
    """

    name: str
    source: Literal["c4"]
    model: str = "llama_60m"
    task: Literal["causal_lm"] = "causal_lm"
    path: str | None = None
    hub: str | None = "allenai/c4"
    revision: str | None = None
    text_column: str = "text"
    shuffle_seed: int = 42
    buffer_size: int = 4096
    packing: bool = False
    max_length: int = 256
    max_eval_tokens: int = 10_000_000
    primary_metric: Literal["loss", "perplexity", "bits_per_byte"] = "perplexity"

    def __post_init__(self) -> None:
        for key, least in (("max_length", 4), ("max_eval_tokens", 4), ("buffer_size", 1), ("shuffle_seed", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}: it is at least {least}")
