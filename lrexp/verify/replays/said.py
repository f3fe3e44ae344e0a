"""Replays of SAID and DID: training from a given theta with the published gradient, and the true one of the first step.

The published code has one more entry of lambda than there are tensors, which the optimizer holds and nothing uses.
"""

from __future__ import annotations

import torch
from torch import nn

from lrexp.methods.subspaces.said import SAID
from lrexp.spec.convert import from_mapping
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay
from lrexp.verify.subspaces import NAMES, Trained, prepared, start_at, train


@replay("said", "train_did")
def train_did(case: Case) -> Outcome:
    """Without lambda."""
    return _trained(case, False)


@replay("said", "train_said")
def train_said(case: Case) -> Outcome:
    """With lambda."""
    return _trained(case, True)


def _prepared(case: Case, said: bool, legacy: bool) -> Trained:
    tensors = sum(case.get(f"{name}_0") is not None for name in NAMES.values())
    d = len(case["theta_start"]) + (tensors if said else 0)
    section = {"intrinsic_dimension": d, "said": said, "legacy_grad_scale": legacy}
    return prepared(SAID(from_mapping(SAID.Hyperparameters, section, "method")), case)


def _trained(case: Case, said: bool) -> Outcome:
    exact = _prepared(case, said, False)
    start_at(exact, case["theta_start"])
    (exact.model(case["X"][0]) * case["g"][0]).sum().backward()
    trained = _prepared(case, said, case.hyperparameters["legacy_grad_scale"])
    outcome = Outcome({"theta_init": trained.subspace.theta.detach().clone()})
    start_at(trained, case["theta_start"])
    outcome.tensors["y_start"] = trained.output(case["X"][0])
    unused = nn.Parameter(torch.ones(1, dtype=case["theta_start"].dtype)) if said else None
    train(trained, case, lambda y, g: (y * g).sum(), unused)
    seen = {name: torch.stack(values) for name, values in trained.seen.items()}
    outcome.tensors |= {name: seen[name] for name in ("theta", "grad_theta")}
    outcome.tensors |= {"y_final": trained.output(case["X"][0])}
    gradients = {"theta": exact.subspace.theta, "lambda": exact.subspace.lam}
    outcome.tensors |= {
        f"grad_{name}_exact_step1": p.grad for name, p in gradients.items() if p is not None and p.grad is not None
    }
    if said:
        outcome.tensors["lam"] = _with_unused(seen["lam"], trained.seen["unused"])
        outcome.tensors["grad_lam"] = _with_unused(seen["grad_lam"], [torch.zeros(1)] * len(case["X"]))
    return outcome


def _with_unused(used: torch.Tensor, unused: list[torch.Tensor]) -> torch.Tensor:
    """(steps, m) and (steps, 1) side by side."""
    return torch.cat([used, torch.stack(unused).to(used)], dim=1)
