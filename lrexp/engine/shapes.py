"""A run's first step on shapes alone: what it would hold in memory and compute, with no numbers anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lrexp.engine import forward
from lrexp.engine.flops import Flops
from lrexp.engine.pack import tensors_in
from lrexp.engine.tensors import REST, Tensors
from lrexp.engine.update import Update, with_optimizer
from lrexp.linalg.random import kept_generators
from lrexp.methods.base import Batch, Context, Decisions, Method, Micro
from lrexp.spec.run_spec import RunSpec
from lrexp.tasks.base import Task

PARTS = ("weights", "gradients", "optimizer", "method_state", REST)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    """Bytes by part when training holds most, and the operations of all products of a step, forward and backward."""

    parts: dict[str, int]
    flops: int

    @property
    def peak(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@contextmanager
def on_shapes() -> Iterator[Tensors]:
    """Within the block tensors are fake and on the CPU, and what they would take is noted.

    Where code asks for a number of theirs it gets 1 or True: a loss is finite, an iteration has converged.
    """
    tensors = Tensors(CPU)
    with kept_generators(CPU), FakeTensorMode(allow_non_fake_inputs=True), Ones(), tensors:
        yield tensors


def first_step(
    spec: RunSpec, task: Task, method: Method, model: nn.Module, context: Context, batch: Batch, tensors: Tensors
) -> Step:
    """The first update of a model that was prepared within `on_shapes`; none where the run has no steps.

    The optimizer's state counts as there from its beginning on, as it is in all later ones. Every micro-batch is
    `batch`; two stand for any number of them. Whatever is alive before it is weights (parameters and buffers) or the
    method's state.
    """
    forward.arrange(model, replace(spec.training, torch_compile=False))
    model.train()
    begin = tensors.clock
    tensors.put_all("method_state")
    tensors.put([*model.parameters(), *model.buffers()], "weights", since=begin)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: tensors.put([p.grad], "gradients"))
    prepared = with_optimizer(spec, method, model, Decisions())
    update = Counted(spec, task, prepared, replace(context, device=CPU))
    micro_batches = spec.training.gradient_accumulation_steps
    if context.total_steps and prepared.names:
        with Attention(spec.hardware.device):
            update.step(0, [{key: tensor.clone() for key, tensor in batch.items()}] * min(2, micro_batches))
        state = (t for state in prepared.optimizer.state.values() for t in tensors_in(dict(state)))
        tensors.put(state, "optimizer", since=begin)
    found = tensors.peak(begin)
    return Step({part: found.get(part, 0) for part in PARTS}, update.flops * micro_batches)


class Counted(Update):
    """`flops` are the operations of the products of the last micro-batch, forward and backward."""

    flops = 0

    def backward(self, step: int, batch: Batch, micro: Micro, targets: float) -> Tensor:
        """As in a run."""
        with Flops() as counter:
            loss = super().backward(step, batch, micro, targets)
        self.flops = counter.total
        return loss


class Ones(TorchDispatchMode):
    """Answers what asks for a number of a tensor that has a shape alone."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """1 in the tensor's own type, True for a comparison."""
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            dtype = args[0].dtype
            if func is torch.ops.aten.equal.default or dtype == torch.bool:
                return True
            return 1.0 if dtype.is_floating_point else 1


class Attention(TorchFunctionMode):
    """Attention as `device` has it under the run's settings, on any device.

    On CUDA a run takes the flash kernel, for 16 bits and without a mask, and else the plain products, since the other
    kernels do not repeat to the bit; the CPU's kernel takes all.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.is_cuda = device == "cuda"

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs attention by its products where CUDA does so."""
        kwargs = dict(kwargs or {})
        if not self.is_cuda or func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        if mask is None and _precision(args[0]).itemsize == 2:
            return func(*args, **kwargs)
        with sdpa_kernel(SDPBackend.MATH):
            return func(*args, **kwargs)


def _precision(tensor: Tensor) -> torch.dtype:
    """What an operation on the tensor computes in."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
