"""The dataset section of a run on prompts and their completions: keys, types and ranges. No torch here."""

from dataclasses import dataclass
from typing import Literal

from lrexp.tasks.answers import compiled
from lrexp.tasks.template import Template

METRICS = ("exact_match", "loss", "perplexity", "bits_per_byte")
_TEMPLATES = ("prompt", "prompt_if_empty", "completion", "test_prompt", "test_completion", "answer")


@dataclass(frozen=True)
class InstructionData:
    """Keys of `dataset` for instructions and questions; what they mean stands in conf/dataset/*.yaml.

    Raises:
        ValueError: a value out of range, beginning with the key's name.
    """

    name: str
    model: str = "gpt2"
    task: Literal["instruction"] = "instruction"
    path: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    test_path: str | None = None
    test_hub: str | None = None
    test_hub_config: str | None = None
    prompt: str = "{instruction}\\n"
    prompt_if_empty: str | None = None
    completion: str = "{output}"
    test_prompt: str | None = None
    test_completion: str | None = None
    completion_only_loss: bool = True
    max_length: int = 512
    truncation: Literal["right", "left", "drop"] = "right"
    padding: Literal["longest", "max_length"] = "longest"
    max_new_tokens: int | None = None
    few_shot: int = 0
    few_shot_separator: str = "\\n\\n"
    answer_pattern: str | None = None
    answer_match: Literal["first", "last"] = "last"
    answer: str | None = None
    answer_tolerance: float | None = None
    overlap: Literal["keep", "drop_from_test", "drop_from_train"] = "keep"
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    validation_fraction: float = 0.1
    primary_metric: Literal["exact_match", "loss", "perplexity", "bits_per_byte"] | None = None

    def __post_init__(self) -> None:
        for key in _TEMPLATES:
            self._check_template(key)
        self._check_answers()
        if self.max_length < 4:
            raise ValueError(f"max_length is {self.max_length}: it counts tokens of a sequence, and is at least 4")
        for key, least in (("max_train_samples", 1), ("max_eval_samples", 1), ("max_new_tokens", 1), ("few_shot", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"{key} is {value}: it is at least {least}")
        if self.few_shot and not self.generates:
            raise ValueError(f"few_shot is {self.few_shot}, but nothing is answered: set dataset.max_new_tokens, or 0")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}: it lies between 0 and 1")

    def _check_template(self, key: str) -> None:
        text = getattr(self, key)
        if text is None:
            return
        try:
            columns = Template(text).columns
        except ValueError as error:
            raise ValueError(f"{key} {error}") from None
        if not columns:
            raise ValueError(f"{key} is '{text[:40]}': it names a column of the data as {{column}}")

    def _check_answers(self) -> None:
        if self.answer_pattern is not None:
            try:
                compiled(self.answer_pattern)
            except ValueError as error:
                raise ValueError(f"answer_pattern '{self.answer_pattern[:60]}' {error}") from None
        if self.max_new_tokens is not None and self.answer_pattern is None:
            raise ValueError(
                "max_new_tokens is set without answer_pattern, which finds the answer in what is generated"
            )
        if self.answer_tolerance is not None and self.answer_tolerance < 0:
            raise ValueError(f"answer_tolerance is {self.answer_tolerance}: it is at least 0, or null for words")
        if self.primary_metric == "exact_match" and not self.generates:
            raise ValueError("primary_metric is exact_match, but nothing is generated: set dataset.max_new_tokens")

    @property
    def generates(self) -> bool:
        """Whether an evaluation lets the model write, and compares the answers."""
        return self.max_new_tokens is not None

    @property
    def primary(self) -> str:
        """The metric of the table and of the selection rule."""
        return self.primary_metric or ("exact_match" if self.generates else "perplexity")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of the reported split."""
        return METRICS if self.generates else METRICS[1:]

    def prompt_of(self, split: str) -> Template:
        """The prompt's template for the rows of a split."""
        return Template(self.test_prompt if split == "test" and self.test_prompt else self.prompt)

    def prompt_if_empty_of(self, split: str) -> Template | None:
        """The template for rows of a split with nothing in a column of the prompt; None for the prompt's own."""
        if self.prompt_if_empty is None or (split == "test" and self.test_prompt):
            return None
        return Template(self.prompt_if_empty)

    def completion_of(self, split: str) -> Template:
        """The completion's template for the rows of a split."""
        return Template(self.test_completion if split == "test" and self.test_completion else self.completion)

    def columns_of(self, split: str, answered: bool) -> dict[str, str]:
        """The columns that are read for a split and the key that names each, those of its answers if asked for."""
        is_test = split == "test"
        named = {
            "test_prompt" if is_test and self.test_prompt else "prompt": self.prompt_of(split),
            "prompt_if_empty": self.prompt_if_empty_of(split),
            "test_completion" if is_test and self.test_completion else "completion": self.completion_of(split),
            "answer": Template(self.answer) if self.answer and answered else None,
        }
        found: dict[str, str] = {}
        for key, template in named.items():
            for column in template.columns if template else ():
                found.setdefault(column, key)
        return found
