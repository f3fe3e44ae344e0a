"""Two small image classifiers whose sizes follow the images: a multilayer perceptron and LeNet.

They are those of Li et al. 2018, arXiv 1804.08838 (Measuring the Intrinsic Dimension of Objective Landscapes), whose
MNIST networks have 199,210 and 44,426 parameters. Kernels are drawn as He et al. 2015 do, N(0, 2 / fan_in), biases are
zero; the authors' Keras cuts that distribution off at two standard deviations. They are transformers' models: a saved
folder has a config.json and safetensors. Only lrexp can load one, once `register` has told transformers of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

Shape = tuple[int, int, int]  # channels, height, width
KERNEL = 5  # of LeNet's convolutions
SMALL = 16  # a lower image has no pixel left after two unpadded convolutions, each with its pooling


def shape_of(config: Any) -> Shape:
    """The shape of the images that a config speaks of."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return config.num_channels, height, width


class MLPConfig(PretrainedConfig):
    """Sizes of an MLP. Raises ValueError for a size below 1."""

    model_type = "mlp"

    def __init__(
        self, hidden_sizes: Sequence[int] = (200, 200), num_channels: int = 1, image_size: Any = 28, **kwargs: Any
    ) -> None:
        _refuse_small("hidden_sizes", hidden_sizes)
        self.hidden_sizes = list(hidden_sizes)
        self.num_channels = num_channels
        self.image_size = image_size
        super().__init__(**kwargs)


class LeNetConfig(PretrainedConfig):
    """Sizes of a LeNet. `padding` None is 0, or 2 (a convolution keeps the size) where an image's side is below 16."""

    model_type = "lenet"

    def __init__(
        self, conv_sizes: Sequence[int] = (6, 16), hidden_sizes: Sequence[int] = (120, 84), padding: int | None = None,
        num_channels: int = 1, image_size: Any = 28, **kwargs: Any,
    ) -> None:  # fmt: skip
        _refuse_small("conv_sizes", conv_sizes)
        _refuse_small("hidden_sizes", hidden_sizes)
        if len(conv_sizes) != 2:
            raise ValueError(f"conv_sizes is {list(conv_sizes)}: LeNet has two convolutions")
        if padding is not None and (not isinstance(padding, int) or padding < 0):
            raise ValueError(f"padding is {padding}: it is a whole number from 0, or null")
        self.conv_sizes = list(conv_sizes)
        self.hidden_sizes = list(hidden_sizes)
        self.padding = padding
        self.num_channels = num_channels
        self.image_size = image_size
        super().__init__(**kwargs)


class _Drawn(PreTrainedModel):
    """Draws kernels as He et al. do."""

    main_input_name = "pixel_values"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


class MLP(_Drawn):
    """Pixels in a row, hidden layers with ReLU, a linear classifier."""

    config_class = MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        channels, height, width = shape_of(config)
        self.layers, size = _hidden(channels * height * width, config.hidden_sizes)
        self.classifier = nn.Linear(size, config.num_labels or 0)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits (images, labels) of images (images, channels, height, width)."""
        return _classified(self, pixel_values.flatten(1))


class LeNet(_Drawn):
    """Two convolutions with ReLU and 2 x 2 maximum pooling, hidden layers with ReLU, a linear classifier."""

    config_class = LeNetConfig

    def __init__(self, config: LeNetConfig) -> None:
        super().__init__(config)
        channels, *sides = shape_of(config)
        padding = config.padding if config.padding is not None else (KERNEL // 2 if min(sides) < SMALL else 0)
        for _ in config.conv_sizes:
            sides = [(side + 2 * padding - KERNEL + 1) // 2 for side in sides]
        if min(sides) < 1:
            height, width = shape_of(config)[1:]
            raise ValueError(f"images of {height} x {width} pixels are too small for model.config.padding={padding}")
        first, second = config.conv_sizes
        self.conv1 = nn.Conv2d(channels, first, KERNEL, padding=padding)
        self.conv2 = nn.Conv2d(first, second, KERNEL, padding=padding)
        self.layers, size = _hidden(second * sides[0] * sides[1], config.hidden_sizes)
        self.classifier = nn.Linear(size, config.num_labels or 0)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits (images, labels) of images (images, channels, height, width)."""
        x = F.max_pool2d(F.relu(self.conv1(pixel_values)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return _classified(self, x.flatten(1))


def register() -> None:
    """Tells transformers' automatic classes of the two; as often as one likes."""
    for config, model in ((MLPConfig, MLP), (LeNetConfig, LeNet)):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageClassification.register(config, model, exist_ok=True)


def _hidden(size: int, hidden_sizes: Sequence[int]) -> tuple[nn.ModuleDict, int]:
    """Layers hidden1, hidden2, ... one after the other on `size` features, and how many features the last gives."""
    ends = [size, *hidden_sizes]
    return nn.ModuleDict({f"hidden{i}": nn.Linear(*pair) for i, pair in enumerate(pairwise(ends), 1)}), ends[-1]


def _classified(model: MLP | LeNet, x: Tensor) -> ImageClassifierOutput:
    for layer in model.layers.values():
        x = F.relu(layer(x))
    return ImageClassifierOutput(logits=model.classifier(x))


def _refuse_small(key: str, values: Sequence[int]) -> None:
    if not all(isinstance(value, int) and value >= 1 for value in values):
        raise ValueError(f"{key} is {list(values)}: whole numbers from 1")
