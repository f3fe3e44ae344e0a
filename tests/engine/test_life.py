"""The life cycle through the real engine: hooks in their order; methods to come resume exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lrexp.engine import reload
from lrexp.engine.finished import decisions, tensors
from lrexp.engine.session import Session
from lrexp.laws.stopping import stop_after
from lrexp.methods.base import Method
from lrexp.spec.errors import Interrupted
from tests.conftest import session
from tests.engine import toys


def lived(tiny: list[str], folder: Path, method: Method, *overrides: str) -> dict[str, Any]:
    of = session(tiny, folder, "method=full", *overrides)
    return Session(replace(of.run, method=method), of.task, of.context, folder).execute()


def test_hooks_are_called_in_the_order_of_the_life_cycle(tiny: list[str], tmp_path: Path) -> None:
    method = toys.Recorder()
    setting = ("training.max_steps=2", "training.save_steps=2", "training.logging_steps=2")
    accumulation = ("training.gradient_accumulation_steps=2", "training.per_device_train_batch_size=4")
    lived(tiny, tmp_path, method, *setting, *accumulation)
    assert method.calls == [
        "decide", "prepare", "parameter_groups", "decayed", "build_optimizer",
        "before_step 0", "lr_multiplier 0 0", "lr_multiplier 0 1", "loss 0", "loss 1.",
        "gradients_ready 0", "before_update 0", "after_update 0",
        "before_step 1", "lr_multiplier 1 0", "lr_multiplier 1 1", "loss 0", "loss 1.",
        "gradients_ready 1", "before_update 1", "after_update 1", "metrics",
        "state_dict", "metrics",
    ]  # fmt: skip


TOYS = [toys.Calibrated, toys.Merging, toys.Masked, toys.Projected, toys.Subspace]


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
@pytest.mark.parametrize("setting", [(), ("training.eval_steps=2", "training.selection=best")], ids=["last", "best"])
def test_methods_to_come_resume_exactly(
    toy: type[Method], setting: tuple[str, ...], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lived(tiny, tmp_path / "whole", toy(None), *setting)
    toys.Calibrated.decided = 0
    stop_after(monkeypatch, 1, 4)
    for _ in range(2):
        with pytest.raises(Interrupted):
            lived(tiny, tmp_path / "stopped", toy(None), *setting)
    result = lived(tiny, tmp_path / "stopped", toy(None), *setting)
    assert result["costs"]["resumed_from"] == [1, 4] and result["metrics"] == whole["metrics"]
    assert toys.Calibrated.decided == (1 if toy is toys.Calibrated else 0)
    names = ["metrics.jsonl", "predictions.parquet", next((tmp_path / "whole").glob("*.safetensors")).name]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name


def test_what_was_decided_is_kept_and_not_decided_again(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload.catalog, "build", lambda section: toys.Calibrated(None))
    lived(tiny, tmp_path / "run", toys.Calibrated(None))
    run = session(tiny, tmp_path / "again", "method=full").run
    kept = decisions(tmp_path / "run", torch.device("cpu"))
    assert kept.values == {"width": 2, "note": 5} and kept.tensors["losses"].shape == (3,)
    toys.Calibrated.decided = 0
    of = session(tiny, tmp_path / "again", "method=full")
    stored = reload.Stored(tensors(tmp_path / "run", True), kept)
    model = reload.rebuild(replace(run, method=toys.Calibrated(None)), of.task, stored, of.context)
    assert toys.Calibrated.decided == 0
    assert model.get_parameter("extra").equal(stored.tensors["extra"])


def test_a_metric_that_is_undefined_is_null(tiny: list[str], tmp_path: Path) -> None:
    assert lived(tiny, tmp_path, toys.Masked(None))["metrics"]["method_undefined"] is None


def test_nested_optimizer_state_is_counted(tiny: list[str], tmp_path: Path) -> None:
    projected = lived(tiny, tmp_path / "projected", toys.Projected(None))["costs"]["optimizer_state_bytes"]
    plain = lived(tiny, tmp_path / "plain", toys.Toy(None))["costs"]["optimizer_state_bytes"]
    assert 1000 < projected < plain


def test_a_penalty_shared_over_micro_batches_is_one_penalty(tiny: list[str], tmp_path: Path) -> None:
    found = []
    for name, size, accumulation in (("one", 20, 1), ("four", 5, 4)):  # 48 items: the third batch is 8, or 5 and 3
        batch = (
            f"training.per_device_train_batch_size={size}", f"training.gradient_accumulation_steps={accumulation}",
            "hardware.precision=float64", "optimizer=sgd",
        )  # fmt: skip
        lived(tiny, tmp_path / name, toys.Calibrated(None), "training.max_steps=6", *batch)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found.append([list(json.loads(line).values()) for line in lines])
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-9, atol=1e-9)
