"""Gradients of frozen weights, as the products that they are made of: output gradients times inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lrexp.layers.inputs import rows


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block no parameter asks for a gradient; after it, each is as it was."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def backward(
    model: nn.Module, names: Sequence[str], take: Callable[[str, Tensor, Tensor], None], loss: Callable[[], Tensor]
) -> None:
    """Runs `loss()` forward and back, with `take(name, g, x)` for each call of the layers: rows g (T, m) and x (T, n).

    The gradient of the layer's weight (m, n) is the sum of g^T x over its calls. No gradient of a weight is formed, and
    nothing is done for layers before the first of `names`.
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:  # a leaf, which what follows must not change in place
                output = output.requires_grad_(True).clone()
            x = inputs[0].detach()
            output.register_hook(lambda g: take(name, rows(g, None), rows(x, None)))
            return output

        return forward

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        with frozen(model):
            value = loss()
            if value.requires_grad:
                value.backward()
    finally:
        for handle in handles:
            handle.remove()
