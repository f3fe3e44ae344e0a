"""Small pieces that decide numbers: clipping, casts, how many steps there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lrexp.engine.gradients import clip
from lrexp.engine.precision import place
from lrexp.engine.sampler import total_steps
from lrexp.methods.catalog import families
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError
from tests.conftest import session


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("frequencies", torch.tensor([0.1234567]), persistent=False)
        self.register_buffer("mean", torch.ones(2))
        self.register_buffer("index", torch.arange(3))


def test_integers_and_computed_constants_survive_a_cast() -> None:
    model = place(Positions(), torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.mean.dtype == torch.bfloat16
    assert model.index.dtype == torch.int64
    assert model.frequencies.dtype == torch.float32 and float(model.frequencies) == float(torch.tensor(0.1234567))
    assert "frequencies" not in model.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipping_is_that_of_torch(dtype: torch.dtype) -> None:
    ours, theirs = ([nn.Parameter(torch.ones(n, dtype=dtype)) for n in (3, 5)] for _ in range(2))
    for parameters in (ours, theirs):
        for p in parameters:
            p.grad = torch.arange(1.0, len(p) + 1, dtype=dtype)
    assert clip(ours, 0.5) == pytest.approx(float(nn.utils.clip_grad_norm_(theirs, 0.5)))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_norm_of_bf16_gradients_is_not_rounded_to_bf16() -> None:
    p = nn.Parameter(torch.ones(1001, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    assert clip([p], 1e9) == pytest.approx(1001**0.5, rel=1e-6)
    assert clip([nn.Parameter(torch.ones(2))], 1.0) == 0.0 and clip([p], None) is None


@pytest.mark.parametrize(
    ("epochs", "size", "accumulation", "steps"),
    [(1, 8, 1, 6), (0.5, 8, 1, 3), (0.7, 1, 1, 34), (2, 7, 1, 14), (1, 5, 3, 4), (1, 100, 1, 1), (3, 64, 2, 3)],
)
def test_steps_of_epochs(
    epochs: float, size: int, accumulation: int, steps: int, tiny: list[str], tmp_path: Path
) -> None:
    of = session(
        tiny, tmp_path, "training.max_steps=null", f"training.num_train_epochs={epochs}",
        f"training.per_device_train_batch_size={size}", f"training.gradient_accumulation_steps={accumulation}",
    )  # fmt: skip
    assert total_steps(of.run.spec.training, len(of.task.splits["train"])) == steps == of.context.total_steps


def test_a_tenth_of_thirty_steps_is_three(tiny: list[str], tmp_path: Path) -> None:
    of = session(tiny, tmp_path, "training.max_steps=null", "training.num_train_epochs=0.1")
    assert total_steps(of.run.spec.training, 240) == 3


def test_calibration_batches_are_drawn_by_the_seed_and_cover_a_small_train(tiny: list[str], tmp_path: Path) -> None:
    one, two = (session(tiny, tmp_path / name).context.calibration for name in ("one", "two"))
    assert one is not None and two is not None
    rows = [[int(r) for batch in draw("x", 7, 8) for r in batch["row"]] for draw in (one, two)]
    assert rows[0] == rows[1] and len(rows[0]) == 56 and set(rows[0]) == set(range(48))
    assert rows[0] != [int(r) for batch in one("y", 7, 8) for r in batch["row"]]


@pytest.mark.parametrize(
    ("budget", "items", "size", "accumulation", "steps"),
    [(640, 100, 4, 1, 10), (703, 100, 4, 1, 10), (704, 100, 4, 1, 11), (640, 100, 4, 5, 2), (16 * 25, 10, 4, 1, 7)],
)
def test_steps_of_a_budget_of_tokens(budget: int, items: int, size: int, accumulation: int, steps: int) -> None:
    words = [
        "training.max_steps=null", f"training.max_tokens={budget}", f"training.per_device_train_batch_size={size}",
        f"training.gradient_accumulation_steps={accumulation}",
    ]  # fmt: skip
    training = compose(words, families())[0].training
    assert total_steps(training, items, 16) == steps
    with pytest.raises(InputError, match="here their lengths differ"):
        total_steps(training, items)


def test_a_budget_below_one_step_is_refused() -> None:
    training = compose(["training.max_tokens=511"], families())[0].training  # 32 sequences a step
    with pytest.raises(InputError, match="max_tokens is 511: one step takes 512 tokens"):
        total_steps(training, 100, 16)
