"""A frozen layer whose top singular values are scaled and shifted, with a low-rank core among the others.

    W = U diag(S) Vt      C = [ diag((alpha - 1) S_top + beta), 0 ; 0, X Y ]      W_eff = U f(diag(S) + C) Vt

U (m, k), Vt (k, n), k = min(m, n); p values on top, X (k - p, d), Y (d, k - p). f is the identity, or a ReLU on all
entries or on the diagonal alone. SALT, arXiv 2503.16055.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import AdaptedLayer, features
from lrexp.layers.lora_function import Map, lora_linear
from lrexp.layers.lora_linear import is_disturbed, is_ordinary
from lrexp.linalg.norms import product_norm
from lrexp.linalg.svd import Triplets
from lrexp.spec.errors import InputError

Relu = Literal["none", "all", "diag"]


class SALTLayer(AdaptedLayer):
    """SALT on Linear and Conv1D: y = base(x) + change, on the weight as it is. `scale` is alpha - 1.

    The trained parts are zero, the triplets have no values yet. Without a ReLU the change is a LoRA of rank p + d
    between the folded factors U_rest X and Y Vt_rest; with one it goes through all k singular vectors.
    """

    U: Tensor
    S: Tensor
    Vt: Tensor

    def __init__(self, base: nn.Module, p: int, d: int, relu: Relu, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(base)
        m, n = features(base)
        k = min(m, n)
        self.p, self.d, self.relu = p, d, relu
        self.is_ordinary = is_ordinary(base)
        place = {"dtype": dtype, "device": self.weight.device if self.weight.is_meta else device}
        for name, shape in (("U", (m, k)), ("S", (k,)), ("Vt", (k, n))):
            self.register_buffer(name, self.weight.new_zeros(shape, **place))
        self.scale, self.shift, self.X, self.Y = (
            nn.Parameter(self.weight.new_zeros(shape, **place)) for shape in ((p,), (p,), (k - p, d), (d, k - p))
        )

    def matrix(self) -> Tensor:
        """The weight as (m, n): a view."""
        return self.weight.t() if isinstance(self.base, Conv1D) else self.weight.flatten(1)

    @torch.no_grad()
    def set_triplets(self, triplets: Triplets) -> None:
        """Takes all k triplets of the weight, rounded to the layer's precision."""
        for name, tensor in zip(("U", "S", "Vt"), triplets, strict=True):
            getattr(self, name).copy_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """One fused function where the change has low rank and nothing else happens in the base."""
        if self.relu != "none" or not self.is_ordinary or is_disturbed(self.base, x):
            return super().forward(x)
        A, E, B = self.folded()
        return lora_linear(x, Map(self.matrix(), self.bias, A, B, 1.0, E=E))

    def delta(self, x: Tensor) -> Tensor:
        """The change's output, through p + d or through k numbers."""
        x = x.to(self.X.dtype)
        if self.relu == "none":
            A, E, B = self.folded()
            return self.widened(self.narrowed(x, A) * E, B)
        h = F.linear(self.narrowed(x, self.Vt), self.core_change(self.X.dtype))  # (..., k) @ (k, k)
        return self.widened(h, self.U)

    def narrowed(self, x: Tensor, A: Tensor) -> Tensor:
        """The products with the rows of A, along the last axis."""
        return F.linear(x, A)

    def widened(self, h: Tensor, B: Tensor) -> Tensor:
        """The products with the rows of B, where the layer has its outputs."""
        return F.linear(h, B)

    def top_change(self) -> Tensor:
        """What is added to the top singular values, (p,); 0 and no rounding of it at the start."""
        return self.scale * self.S[: self.p] + self.shift

    def folded(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(A, E, B) with A (p + d, n), E (p + d,), B (m, p + d): without a ReLU the change is B diag(E) A."""
        U, Vt, X, Y, top = (t.to(dtype or t.dtype) for t in (self.U, self.Vt, self.X, self.Y, self.top_change()))
        p = self.p
        A = torch.cat([Vt[:p], Y @ Vt[p:]])  # (d, k - p) @ (k - p, n)
        B = torch.cat([U[:, :p], U[:, p:] @ X], dim=1)  # (m, k - p) @ (k - p, d)
        return A, torch.cat([top, top.new_ones(self.d)]), B

    def core_change(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the core has beyond diag(S): f(diag(S) + C) - diag(S), dense (k, k)."""
        low_rank = (self.X.to(dtype) @ self.Y.to(dtype)).to(dtype)
        C = torch.block_diag(torch.diag(self.top_change().to(dtype)), low_rank)
        if self.relu == "none":
            return C
        lowest = -torch.diag(self.S.to(dtype))  # what a ReLU leaves where S + C is not positive
        if self.relu == "diag":
            lowest = torch.full_like(C, -torch.inf).diagonal_scatter(lowest.diagonal())
        return torch.where(lowest < C, C, lowest)  # and not relu(S + C) - S, which would round C

    def delta_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """U (f(diag(S) + C) - diag(S)) Vt in the layout of the base's weight."""
        wide = torch.promote_types(self.X.dtype, dtype)
        if self.relu == "none":
            A, E, B = self.folded(wide)
            change = (B * E) @ A
        else:
            change = self.U.to(wide) @ self.core_change(wide) @ self.Vt.to(wide)
        return change.t() if isinstance(self.base, Conv1D) else change.view(self.weight.shape)

    def penalty(self) -> Tensor:
        """||change of the top values|| + ||X Y||, unsquared; its gradient at 0 is 0."""
        top = self.top_change()
        wide = torch.promote_types(top.dtype, torch.float32)
        return torch.linalg.vector_norm(top.to(wide)) + product_norm(self.X, self.Y)


class SALTConv2d(SALTLayer):
    """SALT on a Conv2d as the matrix (out, in kh kw)."""

    def narrowed(self, x: Tensor, A: Tensor) -> Tensor:
        """A convolution as the base does it, its channels last."""
        return self.base._conv_forward(x, A.view(-1, *self.weight.shape[1:]), None).movedim(-3, -1)  # type: ignore[operator]

    def widened(self, h: Tensor, B: Tensor) -> Tensor:
        """The channels of every position, where a Conv2d has them."""
        return F.linear(h, B).movedim(-1, -3)


def salt_layer(
    name: str, base: nn.Module, p: int, d: int, relu: Relu, dtype: torch.dtype, device: torch.device
) -> SALTLayer:
    """The layer around `base`. Raises InputError, with its name, for a core of too large a rank and grouped kernels."""
    rest = min(features(base)) - p
    if 0 < rest < d:
        raise InputError(
            f"r_lora is {d} for {name}, whose weight has {rest} singular values below the top {p}: "
            f"choose r_lora <= {rest}"
        )
    if not isinstance(base, nn.Conv2d):
        return SALTLayer(base, p, d, relu, dtype, device)
    if base.groups != 1:
        raise InputError(f"{name} is a convolution in {base.groups} groups, which is no single matrix: leave it out")
    return SALTConv2d(base, p, d, relu, dtype, device)
