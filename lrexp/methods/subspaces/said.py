"""SAID and DID: a pre-trained model fine-tuned in a random subspace, with one learned scalar for each tensor.

Aghajanyan, Zettlemoyer, Gupta 2020, arXiv 2012.13255.

    DID     theta_i = theta_i0 + P_i theta_d
    SAID    theta_i = theta_i0 + lambda_i P_i theta_{d-m}        for the m tensors of the model

Trained are theta, from 0, and lambda, from 1: d numbers in all. P_i is a Fastfood projection for each tensor (a weight
and its bias have one each), all of the same theta; where theta is longer than the power of two at or above a tensor's
size, it is cut there. Every tensor that the model lets train moves, embeddings and the new head among them.

The authors' backward pass of each transform multiplies by 1 / sqrt(L_i), so that theta gets the true gradient of tensor
i times 1 / L_i, and large tensors count less. Ours is the true gradient; `legacy_grad_scale` gives theirs. Their d also
pays for one scalar that is never used; ours does not. Tied weights stay tied. Their `random` projection is N(0, 0.01^2)
without normalisation; our dense and sparse ones have columns of length 1 in every tensor. The optimizer's weight decay
acts on theta and lambda, which pulls the weights to their start.
"""

from __future__ import annotations

from dataclasses import dataclass

from lrexp.linalg.projections import Kind
from lrexp.methods.subspaces.intrinsic_dimension import SubspaceMethod
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class SAIDHyperparameters:
    """The subspace, and how its gradient is scaled."""

    intrinsic_dimension: int = 1000  # d, lambda included; paper: 10 to 10,000
    said: bool = True  # false: DID, without lambda
    projection: Kind = "fastfood"  # how P_i is drawn; paper: Fastfood
    legacy_grad_scale: bool = False  # theta's gradient from tensor i times 1 / L_i, as published

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range, and for a gradient of Fastfood without it."""
        if self.intrinsic_dimension < 1:
            raise ValueError(f"intrinsic_dimension is {self.intrinsic_dimension}: it is at least 1")
        if self.legacy_grad_scale and self.projection != "fastfood":
            raise ValueError(f"legacy_grad_scale is true with projection {self.projection}: it is fastfood's")


class SAID(SubspaceMethod):
    """Trains theta and, as SAID, lambda."""

    Hyperparameters = SAIDHyperparameters
    size = "intrinsic_dimension"
    may_differ = ("legacy_grad_scale",)

    @property
    def has_lam(self) -> bool:
        """Whether each tensor has a scalar of its own."""
        return self.hyperparameters.said

    @property
    def legacy_grad_scale(self) -> bool:
        """Whether theta's gradient is scaled as published."""
        return self.hyperparameters.legacy_grad_scale

    def dimension(self, D: int, tensors: int) -> int:
        """For SAID d - m: lambda is paid from d."""
        d = super().dimension(D, tensors)
        if not self.has_lam:
            return d
        if d <= tensors:
            raise InputError(
                f"intrinsic_dimension is {d}: said=true spends one on each of the model's {tensors} tensors, "
                f"so it is at least {tensors + 1}."
            )
        return d - tensors
