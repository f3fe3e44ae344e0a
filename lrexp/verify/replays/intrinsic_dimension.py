"""Replays of intrinsic dimension: the transform, Fastfood, the normalised projection, training of a small network."""

from __future__ import annotations

import torch

from lrexp.linalg.fastfood import Fastfood, Pieces, length
from lrexp.linalg.hadamard import hadamard_transform
from lrexp.linalg.projections import Dense, Draw, Entries, Kind, Sparse
from lrexp.methods.subspaces.intrinsic_dimension import IntrinsicDimension
from lrexp.spec.convert import from_mapping
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay
from lrexp.verify.subspaces import NAMES, prepared, train


@replay("intrinsic_dimension", "fwht")
def fwht(case: Case) -> Outcome:
    """The transform along an axis, plain and orthonormal."""
    x, axis = case["x"], case.hyperparameters["axis"]
    y = hadamard_transform(x, axis)
    return Outcome({"y": y, "y_norm": y / x.shape[axis] ** 0.5})


@replay("intrinsic_dimension", "fastfood", results=("L",))
def fastfood(case: Case) -> Outcome:
    """P theta and P^T g of given pieces."""
    theta, g = case["theta_d"], case["g"]
    pieces = Pieces(case.hyperparameters["D"], case["B"], case["Pi"], case["G"])
    projection = Fastfood.of([pieces], len(theta))
    (offset,) = projection.apply(theta)
    found = {"divisor": pieces.divisor, "theta_offset": offset.view_as(g)}
    back = projection.adjoint([g.reshape(-1)])[0]
    return Outcome(found | {"grad_theta_d": back}, {"L": length(pieces.D)})


class GivenEntries(Draw):
    """The entries of the case's blocks in place of drawn ones."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def entries(self, name: str, D: int, d: int) -> Entries:
        """Those of a block that are not 0."""
        raw = self.case[f"raw_{name}"].T
        rows, columns = raw.nonzero(as_tuple=True)
        return Entries(rows, columns, raw[rows, columns])


@replay("intrinsic_dimension", "global_projection")
def global_projection(case: Case) -> Outcome:
    """Columns divided by their length over all tensors: sparse where blocks have zeros, else dense."""
    theta, shapes = case["theta_d"], [tuple(shape) for shape in case.hyperparameters["shapes"]]
    blocks = [case[f"raw_{i}"].T for i in range(len(shapes))]
    sizes = {str(i): len(block) for i, block in enumerate(blocks)}
    has_zeros = any(bool((block == 0).any()) for block in blocks)
    projection: Dense | Sparse = GivenEntries(case).sparse(sizes, len(theta)) if has_zeros else Dense.of(blocks)
    (offset,) = projection.apply(theta)
    parts = offset.split(list(sizes.values()))
    offsets = {f"offset_{i}": part.view(shape) for i, (part, shape) in enumerate(zip(parts, shapes, strict=True))}
    return Outcome({"row_norms": projection.norms} | offsets)


@replay("intrinsic_dimension", "train_dense")
def train_dense(case: Case) -> Outcome:
    """A dense projection for each tensor, as given."""
    return _trained(case, "dense")


@replay("intrinsic_dimension", "train_fastfood")
def train_fastfood(case: Case) -> Outcome:
    """A Fastfood projection for each tensor."""
    return _trained(case, "fastfood")


def _trained(case: Case, projection: Kind) -> Outcome:
    section = {"intrinsic_dimension": case.hyperparameters["d"], "projection": projection, "scope": "per_tensor"}
    trained = prepared(IntrinsicDimension(from_mapping(IntrinsicDimension.Hyperparameters, section, "method")), case)
    train(trained, case, lambda y, g: (y * g).sum() + 0.5 * y.square().mean())
    seen = {name: torch.stack(values) for name, values in trained.seen.items()}
    y = trained.output(case["X"][0])
    merged = trained.method.finalize(trained.model)
    finals = {f"{NAMES[name]}_final": parameter.detach() for name, parameter in merged.named_parameters()}
    return Outcome({"V": seen["theta"], "grad_V": seen["grad_theta"], "loss": seen["loss"], "y_final": y} | finals)
