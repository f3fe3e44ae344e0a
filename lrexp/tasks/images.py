"""The dataset section of a run on images: keys, types and ranges. No torch here."""

from dataclasses import dataclass
from typing import Literal

from lrexp.tasks.labelled import Labelled


@dataclass(frozen=True)
class ImageData(Labelled):
    """Keys of `dataset` for image classification; what they mean stands in conf/dataset/*.yaml.

    Raises:
        ValueError: a value out of range, beginning with the key's name.
    """

    name: str
    source: Literal["digits", "images"]
    model: str = "mlp"
    task: Literal["image_classification"] = "image_classification"
    path: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    image_size: int | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    shuffle_pixels: bool = False
    shuffle_labels: bool = False
    metrics: tuple[str, ...] | None = None
    primary_metric: str | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        for key in ("path", "hub"):
            if self.source == "digits" and getattr(self, key) is not None:
                raise ValueError(f"{key} is {getattr(self, key)}: source digits comes with scikit-learn; it is null")
        if self.image_column == self.label_column:
            raise ValueError(f"image_column is '{self.image_column}', and so is label_column")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}: it is at least 1, or null for images as they are")
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}: one each, or one each for every channel"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is {min(self.std)}: it is above 0")
        self._check_labels()
        self._check_metrics()
        self._check_limits()
