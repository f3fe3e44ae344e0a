"""Base optimizers that torch lacks, against their formulas and against torch's where the two agree."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lrexp.laws.stopping import stop_after
from lrexp.optim.build import OPTIMIZERS, make_optimizer
from lrexp.optim.group import Group
from lrexp.spec.errors import InputError, Interrupted

OWN = ("adamw_hf", "adamw8bit", "adafactor")


def trained(section: dict[str, Any], shape: tuple[int, ...], steps: int = 4, dtype: torch.dtype = torch.float32) -> Any:
    """The parameter after steps on given gradients, and its state."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
    optimizer = make_optimizer(section, 0.01)([Group({"W": parameter})])
    for _ in range(steps):
        parameter.grad = torch.randn(shape, generator=generator).to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


def test_adamw_hf_is_torchs_adamw_where_eps_and_decay_are_zero() -> None:
    ours, _ = trained({"name": "adamw_hf", "eps": 0.0}, (5, 4))
    theirs, _ = trained({"name": "adamw", "eps": 0.0}, (5, 4))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    with_eps, _ = trained({"name": "adamw_hf", "eps": 0.01}, (5, 4))
    assert (with_eps - trained({"name": "adamw", "eps": 0.01}, (5, 4))[0]).abs().max() > 1e-3


def test_adamw8bit_with_float_state_is_torchs_adamw_without_decay_and_stays_close_with_codes() -> None:
    theirs, _ = trained({"name": "adamw"}, (70, 64))
    small, state = trained({"name": "adamw8bit", "min_8bit_size": 4481}, (70, 64))
    torch.testing.assert_close(small, theirs, rtol=1e-5, atol=1e-6)
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    coded, state = trained({"name": "adamw8bit", "min_8bit_size": 4480}, (70, 64))
    assert {k: v.dtype for k, v in state.items() if k.endswith("codes")} == {
        "exp_avg_codes": torch.uint8, "exp_avg_sq_codes": torch.uint8,
    }  # fmt: skip
    start, _ = trained({"name": "adamw"}, (70, 64), steps=0)
    assert 0 < torch.linalg.vector_norm(coded - theirs) < 0.1 * torch.linalg.vector_norm(theirs - start)


@pytest.mark.parametrize("name", ["adamw_hf", "adamw8bit"])
def test_decay_comes_after_the_move(name: str) -> None:
    start, _ = trained({"name": name}, (3, 3), steps=0)
    moved, _ = trained({"name": name}, (3, 3), steps=1)
    decayed, _ = trained({"name": name, "weight_decay": 10.0}, (3, 3), steps=1)
    torch.testing.assert_close(decayed, moved * 0.9)
    assert (decayed - (start * 0.9 + moved - start)).abs().max() > 1e-4


def adafactor(W: Tensor, gradients: list[Tensor], lr: float, beta1: float, decay: float) -> Tensor:
    """Algorithm 4 of the paper with scale_parameter, in float64, for a matrix."""
    row, column, M = torch.zeros(W.shape[0], dtype=W.dtype), torch.zeros(W.shape[1], dtype=W.dtype), torch.zeros_like(W)
    for t, G in enumerate(gradients, 1):
        beta2, rate = 1 - t**-0.8, lr * max(1e-3, math.sqrt(float(W.square().mean())))
        square = G.square() + 1e-30
        row, column = beta2 * row + (1 - beta2) * square.mean(1), beta2 * column + (1 - beta2) * square.mean(0)
        X = G / torch.sqrt(torch.outer(row, column) / row.mean())
        M = beta1 * M + (1 - beta1) * rate * X / max(1.0, math.sqrt(float(X.square().mean())))
        W = (1 - rate * decay) * W - M
    return W


def test_adafactor_is_the_papers_algorithm() -> None:
    section = {"name": "adafactor", "beta1": 0.9, "scale_parameter": True, "weight_decay": 0.1}
    found, state = trained(section, (6, 5), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    W, *gradients = (torch.randn(6, 5, generator=generator).double() for _ in range(5))
    torch.testing.assert_close(found, adafactor(W, gradients, 0.01, 0.9, 0.1), rtol=1e-12, atol=1e-12)
    assert state["exp_avg_sq_row"].shape == (6,) and state["exp_avg_sq_col"].shape == (5,)


def test_adafactor_keeps_a_whole_moment_of_vectors_and_none_of_the_first_by_default() -> None:
    assert set(trained({"name": "adafactor"}, (6,))[1]) == {"step", "rate", "exp_avg_sq"}
    assert set(trained({"name": "adafactor"}, (2, 3, 4))[1]) == {"step", "rate", "exp_avg_sq_row", "exp_avg_sq_col"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bf16_moves_bf16_weights(name: str) -> None:
    found, _ = trained({"name": name}, (9, 8), dtype=torch.bfloat16)
    start, _ = trained({"name": name}, (9, 8), steps=0, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16 and torch.isfinite(found).all() and not torch.equal(found, start)


@pytest.mark.parametrize(
    "section",
    [
        {"name": "adafactor", "decay_rate": 0.8}, {"name": "adafactor", "beta1": 1.0},
        {"name": "adafactor", "clip_threshold": 0.0}, {"name": "adafactor", "eps": [-1.0, 0.0]},
        {"name": "adamw8bit", "block_size": 0}, {"name": "adamw8bit", "min_8bit_size": -1},
        {"name": "adamw_hf", "betas": [0.9, 1.0]}, {"name": "adamw_hf", "eps": -1.0},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)  # fmt: skip
def test_wrong_settings_are_refused_in_one_line(section: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        make_optimizer(section, 0.1)
    assert list(section)[1] in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["full", "lora", "galore"])
@pytest.mark.parametrize("optimizer", [("adamw_hf",), ("adafactor", "beta1=0.9"), ("adamw8bit", "min_8bit_size=32")])
def test_stopped_within_an_update_gap_and_resumed_equals_undisturbed(
    method: str, optimizer: tuple[str, ...], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *settings = optimizer
    words = [f"method={method}", f"optimizer={name}", *(f"optimizer.{s}" for s in settings)]
    words += ["method.rank=3", "method.update_proj_gap=3"] if method == "galore" else []
    _, undisturbed = run(*words, to="undisturbed")
    stop_after(monkeypatch, 1, 4)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(*words, to="stopped")
    result, resumed = run(*words, to="stopped")
    assert result["costs"]["resumed_from"] == [1, 4]
    assert file_bytes(resumed) == file_bytes(undisturbed)
    assert (resumed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    kept = load_file(sorted(resumed.glob("checkpoints/step-*"))[-1] / "tensors.safetensors")
    assert any(t.dtype == torch.uint8 for t in kept.values()) == (name == "adamw8bit")


def file_bytes(folder: Path) -> bytes:
    return next(folder.glob("*.safetensors")).read_bytes()
