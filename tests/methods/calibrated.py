"""A small network and calibration batches: what EVA and LoRA-GA are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrexp.linalg.random import ambient, generator
from lrexp.methods.base import Batch, Context
from lrexp.spec.errors import Interrupted


class Network(nn.Module):
    """q, k and v of one input, o, and a wide pair."""

    def __init__(self, d: int = 16, h: int = 24) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(d, d) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(d, h), nn.Linear(h, d)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        z = x + self.o_proj(torch.tanh(self.q_proj(x) + self.k_proj(x)) * self.v_proj(x))
        return z + self.down_proj(torch.relu(self.up_proj(self.drop(z))))


def network(**sizes: int) -> Network:
    with ambient(5):
        return Network(**sizes)


def batch(i: int, size: int, d: int = 16) -> Tensor:
    """(size, 7, d) of a slowly decaying spectrum, which the network's own layers make steeper."""
    x = torch.randn(size, 7, d, generator=generator(0, "x", i))
    return x * torch.arange(1, d + 1) ** -0.2 + 1.0


def calibration(name: str, count: int, size: int) -> Iterator[Batch]:
    return ({"x": batch(i, size)} for i in range(count))


def task_loss(model: nn.Module, batch: Batch) -> Tensor:
    return torch.tanh(model(batch["x"])).square().sum(-1).mean()


def context(**more: Any) -> Context:
    settings: dict[str, Any] = {"task_loss": task_loss, "calibration": calibration} | more
    return Context(0, 1, torch.device("cpu"), torch.float32, **settings)


def stopped_in_calibration(run: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the method until the second calibration batch, where the person stops it."""
    from lrexp.engine import sampler

    def cut(*arguments: Any) -> Iterator[Batch]:
        yield next(whole(*arguments))
        raise KeyboardInterrupt

    whole = sampler.calibration
    with monkeypatch.context() as patch:
        patch.setattr("lrexp.train.calibration", cut)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            run(f"method={method}", to="stopped")
