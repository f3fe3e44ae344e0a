"""A model whose weights move in a random subspace alone: W_i = W_i0 + lam_i (P theta)_i, made anew for every forward.

The parameters stay where they are, frozen, as theta0. Before a forward pass of the model a hook computes all weights in
one differentiable step and lays them over the parameters of the modules that own them, as attributes that are found
first; a tied weight is one tensor at all of its places. They stay there until the next pass, since activations may be
computed again in the backward pass. Evaluations compute them once for as long as theta stays what it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrexp.linalg.fastfood import Fastfood
from lrexp.linalg.projections import Placed
from lrexp.models.roles import head_modules
from lrexp.spec.errors import InputError

NAME = "subspace"  # of the attribute of the model that knows how it moves


class Owned(NamedTuple):
    """A parameter that moves: its first name, and every module and name that it is held by."""

    name: str
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def parameter(self) -> nn.Parameter:
        """What the model has under that name."""
        module, name = self.owners[0]
        return module._parameters[name]  # type: ignore[return-value]

    @property
    def start(self) -> Tensor:
        """theta0: the parameter itself, or what `keep_start` has put beside it."""
        module, name = self.owners[0]
        kept = module._buffers.get(f"{name}_start")
        return self.parameter.detach() if kept is None else kept


def moving(model: nn.Module) -> list[Owned]:
    """All parameters that the model lets train, tied ones once, in the model's order. Raises InputError for none."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.requires_grad:
                continue
            if isinstance(module, nn.RNNBase):
                raise InputError(f"{prefix}: a recurrent layer reads its weights past the module, they cannot be moved")
            owners.setdefault(id(parameter), []).append((module, name))
            names.setdefault(id(parameter), f"{prefix}.{name}" if prefix else name)
    if not owners:
        raise InputError(f"{type(model).__name__} has no parameter that may be trained: there is nothing to move")
    return [Owned(names[key], tuple(places)) for key, places in owners.items()]


def keep_start(model: nn.Module, tensors: Sequence[Owned], head: tuple[str, ...]) -> None:
    """Makes the start of the head's tensors part of what is kept: it was drawn, and no file of the base holds it."""
    inside = {id(m) for name in head_modules(model, head) for m in model.get_submodule(name).modules()}
    for tensor in tensors:
        module, name = tensor.owners[0]
        if id(module) in inside:
            module.register_buffer(f"{name}_start", tensor.parameter.detach().clone())


@dataclass(frozen=True)
class Map:
    """From theta and lam to all weights, and from their gradients back. Computed in float32 or better."""

    placed: Sequence[Placed]
    starts: Sequence[Tensor]
    is_scaled_as_published: bool

    def weights(self, theta: Tensor, lam: Tensor | None) -> list[Tensor]:
        """W_i of every tensor, in the dtype and shape of its start."""
        theta = _wide(theta)
        weights: list[Tensor] = [theta] * len(self.starts)
        for projection, parts in self.placed:
            for members, offset in zip(parts, projection.apply(theta), strict=True):
                pieces = offset.split([self.starts[i].numel() for i in members])
                for i, piece in zip(members, pieces, strict=True):
                    start = self.starts[i]
                    moved = piece.view(start.shape)
                    sum_ = start + moved if lam is None else torch.addcmul(start.to(moved), moved, lam[i].to(moved))
                    weights[i] = sum_.to(start.dtype)
        return weights

    def adjoint(
        self, theta: Tensor, lam: Tensor | None, gradients: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of theta and lam. Li et al.: P^T g; with lam: sum_i lam_i P_i^T g_i and theta . P_i^T g_i."""
        wide = _wide(theta)
        total, by_lam = torch.zeros_like(wide), None if lam is None else torch.zeros_like(_wide(lam))
        for projection, parts in self.placed:
            flat = [torch.cat([_flat(gradients[i], self.starts[i], wide) for i in members]) for members in parts]
            back = projection.adjoint(flat)  # (parts, d)
            published = 1 / projection.L if self.is_scaled_as_published and isinstance(projection, Fastfood) else 1.0
            if lam is None or by_lam is None:
                total += back.sum(0) * published
                continue
            index = torch.tensor([i for (i,) in parts], device=wide.device)
            by_lam[index] = back @ wide
            total += (lam[index].to(back) @ back) * published
        return total.to(theta.dtype), None if by_lam is None or lam is None else by_lam.to(lam.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _flat(gradient: Tensor | None, start: Tensor, like: Tensor) -> Tensor:
    return like.new_zeros(start.numel()) if gradient is None else gradient.reshape(-1).to(like)


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, lam: Tensor | None, weights_of: Map, done: Callable[[], None]) -> Any:
        ctx.save_for_backward(theta, lam)
        ctx.set_materialize_grads(False)  # a weight that the model does not use has no gradient, not one of zeros
        ctx.weights_of, ctx.done = weights_of, done
        with torch.autocast(theta.device.type, enabled=False):
            return tuple(weights_of.weights(theta, lam))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        theta, lam = ctx.saved_tensors
        with torch.autocast(theta.device.type, enabled=False):
            found = ctx.weights_of.adjoint(theta, lam, gradients)
        ctx.done()
        return *found, None, None


class Subspace:
    """theta (d), lam (one per tensor) or None, and the laying of weights over `tensors` of the model.

    Both become parameters of the model itself, `subspace_theta` and `subspace_lam`: in a Sequential a module of their
    own would be called.
    """

    def __init__(
        self, tensors: Sequence[Owned], theta: nn.Parameter, lam: nn.Parameter | None, is_scaled_as_published: bool
    ) -> None:
        self.tensors, self.theta, self.lam = list(tensors), theta, lam
        self.is_scaled_as_published = is_scaled_as_published
        self.placed: list[Placed] = []
        self._made_of: list[Tensor] | None = None  # values of theta and lam that the laid weights come from

    def attach(self, model: nn.Module, placed: list[Placed]) -> None:
        """Puts theta and the hook into the model, whose weights move by `placed`."""
        for tensor in self.tensors:
            tensor.parameter.requires_grad_(False)
        self.placed = placed
        for name, parameter in self._parameters().items():
            model.register_parameter(name, parameter)
        setattr(model, NAME, self)
        self._handle = model.register_forward_pre_hook(self._lay)  # type: ignore[arg-type]

    def _parameters(self) -> dict[str, nn.Parameter]:
        found = {f"{NAME}_theta": self.theta}
        return found if self.lam is None else found | {f"{NAME}_lam": self.lam}

    def laid(self) -> list[Tensor]:
        """The weights of the last forward pass of the model."""
        return [module.__dict__[name] for module, name in (tensor.owners[0] for tensor in self.tensors)]

    @torch.no_grad()
    def merge(self, model: nn.Module) -> nn.Module:
        """The model with its weights as they are now, and without this module: equal to the bit."""
        weights = self.map().weights(self.theta, self.lam)
        self._lift()
        for tensor, weight in zip(self.tensors, weights, strict=True):
            tensor.parameter.copy_(weight)
            module, name = tensor.owners[0]
            module._buffers.pop(f"{name}_start", None)
        self._handle.remove()
        for name in (NAME, *self._parameters()):
            delattr(model, name)
        return model

    @torch.compiler.disable  # a graph break: what is compiled takes the weights as its inputs
    def _lay(self, model: nn.Module, inputs: object) -> None:
        """Lays the weights over the parameters: with their history where gradients are wanted, else unless they lie."""
        if torch.is_grad_enabled() and self.theta.requires_grad:
            self._lift()
            self._over(_Weights.apply(self.theta, self.lam, self.map(), _Settle(self)))
            return
        if self._is_current():
            return
        self._lift()
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.theta.device.type, enabled=False):
            self._over(self.map().weights(self.theta, self.lam))
            self._made_of = [p.detach().clone() for p in self._parameters().values()]

    def map(self) -> Map:
        """From theta and lam to all weights, with the projections on the device of theta."""
        device = self.theta.device
        placed = [Placed(projection.to(device), parts) for projection, parts in self.placed]
        self.placed = placed
        return Map(placed, [tensor.start for tensor in self.tensors], self.is_scaled_as_published)

    def _is_current(self) -> bool:
        made = self._made_of
        return made is not None and all(
            old.dtype == new.dtype and old.device == new.device and torch.equal(old, new)
            for old, new in zip(made, self._parameters().values(), strict=True)
        )

    def _over(self, weights: Sequence[Tensor]) -> None:
        for tensor, weight in zip(self.tensors, weights, strict=True):
            for module, name in tensor.owners:
                module.__dict__[name] = weight

    def _lift(self) -> None:
        self._made_of = None
        for module, name in (owner for tensor in self.tensors for owner in tensor.owners):
            module.__dict__.pop(name, None)

    def settle(self) -> None:
        """After the backward pass: the weights lie on without their history, so that the model can be copied."""
        for module, name in (owner for tensor in self.tensors for owner in tensor.owners):
            if name in module.__dict__:
                module.__dict__[name] = module.__dict__[name].detach()


class _Settle:
    """Calls `settle` of a subspace without keeping it alive: the graph would hold the model, the model the graph."""

    def __init__(self, subspace: Subspace) -> None:
        self.subspace = weakref.ref(subspace)

    def __call__(self) -> None:
        subspace = self.subspace()
        if subspace is not None:
            subspace.settle()


def subspace_of(model: nn.Module) -> Subspace:
    """The subspace that a model moves in."""
    found = getattr(model, NAME)
    assert isinstance(found, Subspace)
    return found
