"""Floating-point operations of the products and convolutions that run within a block, by torch's own formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ALIKE = {  # kernels that torch has no formula for, and whose formula is theirs
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: torch.ops.aten._scaled_dot_product_flash_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        torch.ops.aten._scaled_dot_product_flash_attention_backward
    ),
}


class Flops(TorchDispatchMode):
    """`total` counts a multiplication and an addition as two.

    torch's FlopCounterMode adds up by module, for which it keeps tensors alive that a plan has to see go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Lets the operation run and counts it."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        formula = flop_registry.get(_ALIKE.get(packet, packet))
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out
