"""Replays of GaLore: gradients through `Projected` and a base; the projector is checked, then the stored one used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.linalg.blockwise import dynamic_map
from lrexp.methods.base import Context, Decisions
from lrexp.methods.gradients.galore import GaLore, Target
from lrexp.optim.build import OPTIMIZERS, make_optimizer
from lrexp.optim.projector import Kept, Projector, SubspaceProjector
from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError
from lrexp.verify.adapters import TARGET, linear
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay

OPTIMIZER_OF = {"adamw": "adamw_hf"}  # the authors' AdamW is the one that transformers had
OFF = ("relative_step", "warmup_init")  # rules of Adafactor that we leave to the schedule


class Watched:
    """A projector that notes what it finds at a refresh, and goes on with what the case gives."""

    def __init__(self, inner: SubspaceProjector, given: Mapping[str, Tensor]) -> None:
        self.inner, self.given = inner, given
        self.found: list[Kept] = []

    def refresh(self, kept: Kept, gradient: Tensor, step: int) -> None:
        """The production refresh; its result is noted, then replaced at the steps that changed it."""
        before = dict(kept)
        self.inner.refresh(kept, gradient, step)
        self.found.append(dict(kept))
        for name, stored in self.given.items():
            if name in kept and kept[name] is not before.get(name):
                if step >= len(stored):
                    raise InputError(f"the case gives {len(stored)} projectors, step {step + 1} has another")
                kept[name] = stored[step].clone()

    def project(self, kept: Kept, tensor: Tensor) -> Tensor:
        """The production class's."""
        return self.inner.project(kept, tensor)

    def lift(self, kept: Kept, weight: Tensor, move: Tensor, beta: float) -> None:
        """The production class's."""
        self.inner.lift(kept, weight, move, beta)


class WatchedGaLore(GaLore):
    """GaLore whose only projector is watched."""

    watched: Watched
    given: Mapping[str, Tensor]

    def projector(self, name: str, target: Target) -> Projector:
        """The production projector, watched."""
        inner = super().projector(name, target)
        assert isinstance(inner, SubspaceProjector)
        self.watched = Watched(inner, self.given)
        return self.watched


class Net(nn.Module):
    """One linear layer, and the case's 1-D parameter where there is one."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.add_module(TARGET, linear(weight, None))
        self.bias = None if bias is None else nn.Parameter(bias)


def _galore(case: Case) -> WatchedGaLore:
    given = case.hyperparameters
    section = {key: given[key] for key in ("rank", "update_proj_gap", "scale", "proj_type")}
    section |= {"svd": "exact", "target_modules": [TARGET]}
    method = WatchedGaLore(from_mapping(GaLore.Hyperparameters, section, "method"))
    sides = {"P_left": "left", "P_right": "right"}
    stored = {side: P for name, side in sides.items() if (P := case.get(name)) is not None}
    one = case.get("P")
    method.given = stored if one is None else {"left": one, "right": one}  # only one of them is ever kept
    return method


def _section(case: Case) -> dict[str, Any]:
    """The case's optimizer as a spec's section."""
    given = case.hyperparameters
    if wrong := [key for key in OFF if given.get(key)]:
        raise InputError(f"{wrong[0]} is on: Adafactor's rate is the schedule's here")
    name = OPTIMIZER_OF.get(given["optimizer"], given["optimizer"])
    if name not in OPTIMIZERS:
        raise InputError(f"unknown optimizer {name!r}")
    known = [field.name for field in fields(OPTIMIZERS[name].settings)]
    return {"name": name} | {key: given[key] for key in known if key in given}


def _trained(case: Case) -> Outcome:
    """W and bW after every step, P and PtP of every step, and the moments at the end."""
    model, gradients, bias_gradients = Net(case["W0"], case.get("b")), case["G"], case.get("Gb")
    method = _galore(case)
    context = Context(0, len(gradients), torch.device("cpu"), gradients.dtype)
    method.prepare(model, Decisions(), context)
    groups = method.parameter_groups(model)
    for group in groups:
        group.weight_decay = True  # in the authors' class it acts on vectors too
    optimizer = method.build_optimizer(groups, make_optimizer(_section(case), case.hyperparameters["lr"]))
    weight = model.get_submodule(TARGET).get_parameter("weight")
    weights, biases = [], []
    for step, gradient in enumerate(gradients):
        weight.grad = gradient
        if model.bias is not None:
            if bias_gradients is None:
                raise InputError("the case gives b without Gb")
            model.bias.grad = bias_gradients[step]
            optimizer.step()
            biases.append(model.bias.detach().clone())
        else:
            optimizer.step()
        weights.append(weight.detach().clone())
    tensors = {"W": torch.stack(weights)} | _projectors(method.watched) | _moments(optimizer.state[weight]["base"])
    return Outcome(tensors | ({"bW": torch.stack(biases)} if biases else {}))


def _projectors(watched: Watched) -> dict[str, Tensor]:
    found = {side: torch.stack([kept[side] for kept in watched.found]) for side in watched.found[0]}
    if len(found) == 2:
        return {f"P_{side}": P for side, P in found.items()}
    ((side, P),) = found.items()
    wide = P.float()  # a product of bf16 factors would be rounded once more
    return {"P": P, "PtP": wide.mT @ wide if side == "right" else wide @ wide.mT}


def _moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    names = {
        "exp_avg": "M",
        "exp_avg_sq": "V",
        "exp_avg_sq_row": "row",
        "exp_avg_sq_col": "col",
        "exp_avg_codes": "m8",
        "exp_avg_sq_codes": "v8",
        "exp_avg_absmax": "absmax1",
        "exp_avg_sq_absmax": "absmax2",
    }
    return {names[key]: value for key, value in state.items() if key in names}


@replay("galore", "adamw")
@replay("galore", "adamw_with_1d")
@replay("galore", "adamw_bf16")
@replay("galore", "adamw_full")
@replay("galore", "adafactor")
def every_step(case: Case) -> Outcome:
    """The weight after every step."""
    return _trained(case)


@replay("galore", "adam8bit_float_state")
@replay("galore", "adam8bit_blockwise")
def last_step(case: Case) -> Outcome:
    """The weight after the last step alone; the maps of the codes have to be ours."""
    for name, is_signed in (("qmap1", True), ("qmap2", False)):
        given = case.get(name)
        if given is not None and not torch.allclose(given, dynamic_map(is_signed), rtol=1e-6, atol=1e-9):
            raise InputError(f"{name} is no dynamic map of 256 values")
    outcome = _trained(case)
    outcome.tensors["W"] = outcome.tensors["W"][-1:]
    return outcome
