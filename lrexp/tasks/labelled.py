"""The dataset section of a run whose rows are one or two texts and a label: keys, types and ranges. No torch here."""

from dataclasses import dataclass
from typing import Literal

_OF_CLASSES = ("accuracy", "f1", "matthews")
METRICS = {
    "classification": _OF_CLASSES,
    "regression": ("pearson", "spearman", "mse"),
    "image_classification": _OF_CLASSES,
}
DEFAULT_METRICS = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "image_classification": ("accuracy",),
}


class Labelled:
    """What sections of labelled items have in common: which metrics, how many items, the names of the classes."""

    task: str
    label_column: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...] | None
    primary_metric: str | None
    validation_fraction: float

    def _check_limits(self) -> None:
        for key in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}: it is at least 1, or null for all rows")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}: it lies between 0 and 1")

    def _check_labels(self) -> None:
        if self.labels is not None and (len(self.labels) < 2 or len(set(self.labels)) != len(self.labels)):
            raise ValueError(
                f"labels is [{', '.join(self.labels)}]: two or more different names of classes, in their order, or null"
            )

    def _check_metrics(self) -> None:
        known = METRICS[self.task]
        for name in self.metric_names:
            if name not in known:
                raise ValueError(f"metrics has '{name}': {self.task} has {', '.join(known)}")
        if not self.metric_names or len(set(self.metric_names)) != len(self.metric_names):
            raise ValueError(
                f"metrics is [{', '.join(self.metric_names)}]: one or more different names of {', '.join(known)}"
            )
        if self.primary not in self.metric_names:
            raise ValueError(
                f"primary_metric is '{self.primary}': it is one of metrics ({', '.join(self.metric_names)})"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns: none where items are no texts."""
        return ()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics to report; the task's usual ones where none are named."""
        return DEFAULT_METRICS[self.task] if self.metrics is None else self.metrics

    @property
    def primary(self) -> str:
        """The metric of the table and of the selection rule; the first one where none is named."""
        return (self.metric_names or ("",))[0] if self.primary_metric is None else self.primary_metric


@dataclass(frozen=True)
class ClassificationData(Labelled):
    """Keys of `dataset` for sequence classification and regression; what they mean stands in conf/dataset/*.yaml.

    Raises:
        ValueError: a value out of range, beginning with the key's name.
    """

    name: str
    source: Literal["local", "glue", "docmatch"]
    model: str = "embedded"
    task: Literal["classification", "regression"] = "classification"
    path: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    text_columns: str | tuple[str, ...] = ("sentence1", "sentence2")
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    primary_metric: str | None = None
    max_length: int = 128
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        self._check_columns()
        self._check_metrics()
        if self.max_length < 4:
            raise ValueError(
                f"max_length is {self.max_length}: it counts tokens, special ones included, and is at least 4"
            )
        self._check_limits()

    def _check_columns(self) -> None:
        if not 1 <= len(self.columns) <= 2:
            raise ValueError(f"text_columns names {len(self.columns)} columns: one text or a pair of texts is encoded")
        if len({*self.columns, self.label_column}) != len(self.columns) + 1:
            raise ValueError(
                f"label_column is '{self.label_column}', text_columns [{', '.join(self.columns)}]: one stands twice"
            )
        if self.labels is not None and self.task == "regression":
            raise ValueError("labels names classes, but task is regression: set dataset.labels=null")
        self._check_labels()

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns, one or two."""
        return (self.text_columns,) if isinstance(self.text_columns, str) else self.text_columns
