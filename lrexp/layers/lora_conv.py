"""LoRA on Conv2d, in two layouts that are not the same class of functions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.layers.adapted import features
from lrexp.layers.lora_layer import LoRALayer, LoRASettings


class LoRAConv2d(LoRALayer):
    """PEFT's layout: A (r, in, kh, kw) convolves as the base does (stride, padding), B (out, r, 1, 1) has kernel 1."""

    def __init__(self, base: nn.Conv2d, settings: LoRASettings) -> None:
        r = settings.r
        super().__init__(base, settings, (r, *base.weight.shape[1:]), (base.out_channels, r, 1, 1))

    def delta(self, x: Tensor) -> Tensor:
        """B(diag(E) A(x)) * scaling, in the factors' precision."""
        h = self.base._conv_forward(x.to(self.lora_A.dtype), self.lora_A, None)  # type: ignore[operator]
        return F.conv2d(self.between(h, axis=-3), self.lora_B)


class LoRAConv2dReshaped(LoRALayer):
    """loralib's layout: B (out k, r k) A (r k, in k), reshaped row by row to (out, in, k, k); rank r k as a matrix.

    The change is a convolution with the dense reshaped product, as the authors have it: there is no cheaper form.
    """

    def __init__(self, base: nn.Conv2d, settings: LoRASettings) -> None:
        k = base.kernel_size[0]
        m, n = features(base)
        wide = settings.r * k
        super().__init__(base, settings, (wide, n // k), (m * k, wide))
        self.rank = wide

    def delta(self, x: Tensor) -> Tensor:
        """The convolution of x with scaling * reshape(B A)."""
        weight = self.delta_weight(self.lora_A.dtype)
        return self.base._conv_forward(x.to(weight.dtype), weight, None)  # type: ignore[operator]
