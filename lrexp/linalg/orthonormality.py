"""How far matrices are from having orthonormal rows, and the gradients of that in closed form.

For rows Q (r, k) and D = Q Q^T - I the distance is ||D||_F, with the gradient 2 D Q / ||D||_F, or ||D||_F^2, with
4 D Q. All of it is products with (r, r) matrices: no graph and no second backward pass; matrices of one shape share
one batched product. The plain norm has no gradient where D is zero; there it counts as 0, as automatic
differentiation has it. Near zero D is rounding, and yet the gradient of the norm keeps its full length of about 2: its
direction is noise, other on every device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

Penalty = Literal["norm", "squared"]


@torch.no_grad()
def mean_distance(stacks: Sequence[Tensor], penalty: Penalty = "norm") -> Tensor:
    """The mean distance over all matrices, a scalar in float32 or better; each stack is (b, r, k), b matrices."""
    norms = torch.cat([torch.linalg.matrix_norm(D) for _, _, D in _alike(stacks)])
    return (norms if penalty == "norm" else norms.square()).mean()


@torch.no_grad()
def gradients(stacks: Sequence[Tensor], penalty: Penalty = "norm") -> list[Tensor]:
    """Gradients of `mean_distance` with respect to every stack, in float32 or better."""
    count = sum(len(stack) for stack in stacks)
    found: list[Tensor] = [stack for stack in stacks]
    for indices, Q, D in _alike(stacks):
        if penalty == "norm":
            norms = torch.linalg.matrix_norm(D, keepdim=True)  # (b, 1, 1)
            D = D * torch.where(norms > 0, 2 / (count * norms), 0.0)
        else:
            D = D * (4 / count)
        G = torch.bmm(D, Q)  # (b, r, r) @ (b, r, k)
        for index, part in zip(indices, G.split([len(stacks[i]) for i in indices]), strict=True):
            found[index] = part
    return found


def _alike(stacks: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Stacks of one kind as one: their indices, Q (b, r, k) and Q Q^T - I (b, r, r), in float32 or better."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, stack in enumerate(stacks):
        groups.setdefault((*stack.shape[1:], stack.dtype, stack.device), []).append(index)
    for indices in groups.values():
        Q = torch.cat([stacks[i] for i in indices])
        Q = Q.to(torch.promote_types(Q.dtype, torch.float32))
        identity = torch.eye(Q.shape[1], dtype=Q.dtype, device=Q.device)
        yield indices, Q, torch.bmm(Q, Q.mT) - identity  # (b, r, k) @ (b, k, r)
