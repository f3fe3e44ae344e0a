"""Where a run stands, and what it trains."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer

from lrexp.methods.base import Decisions, Method


@dataclass
class State:
    """The part of a checkpoint that is neither weights nor moments."""

    step: int = 0
    loss_sum: float = 0.0  # since the last logged line
    loss_steps: int = 0
    evaluated: int = 0  # the last step that was evaluated
    saved: int = -1
    recorded: int = 0  # bytes of metrics.jsonl at the checkpoint
    best: float | None = None
    best_step: int | None = None
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    compile_seconds: float = 0.0
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    tokens_seen: int = 0
    prepare_seconds: float = 0.0
    prepare_peak_bytes: int = 0
    peak_bytes: int = 0
    reserved_bytes: int = 0
    resumed_from: list[int] = field(default_factory=list)
    measured: dict[str, float | None] = field(default_factory=dict)  # quality before training, for `measures_base`


@dataclass
class Prepared:
    """A model as its method trains it. `names` are those of the optimizer's parameters."""

    method: Method
    model: nn.Module
    decisions: Decisions
    optimizer: Optimizer
    names: dict[nn.Parameter, str]
