"""Processes that train one run together: the numbers of one process with the whole batch, resumed exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lrexp.engine.team import ALONE, _buckets
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.yaml_text import read_file
from tests.conftest import Runner, merged
from tests.launch.test_sweep import workers

EXACT = ("hardware.precision=float64", "training.max_steps=20")
BOTH = ("hardware.processes=2", "training.per_device_train_batch_size=4")
BYTES = ("metrics.jsonl", "predictions.parquet", "adapter.safetensors")


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


@pytest.mark.parametrize(
    "spread",
    [
        ("method=lora", "training.gradient_accumulation_steps=2"),
        ("method=galore", "method.rank=4", "training.per_layer_updates=true", "training.max_grad_norm=null"),
    ],
)
def test_two_processes_equal_one_with_the_whole_batch(run: Runner, spread: tuple[str, ...]) -> None:
    one, alone = run(*spread, *EXACT, to="one")
    two, together = run(*spread, *EXACT, *BOTH, to="two")
    assert losses(alone) == pytest.approx(losses(together), abs=1e-10) and len(losses(alone)) == 20
    theirs = weights(together)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-10)
    assert one["costs"]["tokens_seen"] == two["costs"]["tokens_seen"]
    assert one["spec_hash"] != two["spec_hash"]


def test_a_killed_run_goes_on_to_the_same_bytes(tiny: list[str], run: Runner, tmp_path: Path) -> None:
    words = ("method=lora", *BOTH, "training.max_steps=120", "training.save_steps=5", "training.logging_steps=20")
    _, whole = run(*words, to="whole")
    folder = tmp_path / "killed"
    line = [sys.executable, "-m", "lrexp", "train", *merged(tiny, (*words, f"output_dir={folder}"))]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    last = time.monotonic() + 120
    while len(list(folder.glob("checkpoints/step-*"))) < 2 and time.monotonic() < last:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (folder / "result.json").exists()
    assert _gone(folder)  # nothing goes on without the first process
    assert subprocess.run(line, capture_output=True).returncode == 0
    for name in BYTES:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert json.loads((folder / "result.json").read_text())["costs"]["resumed_from"]


def test_a_process_that_dies_is_named(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("method=lora", *BOTH, "training.max_steps=100000", f"output_dir={folder}")
    line = [sys.executable, "-m", "lrexp", "train", *merged(tiny, words)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    last = time.monotonic() + 120
    while not list(folder.glob("checkpoints/step-*")) and time.monotonic() < last:
        time.sleep(0.05)
    for number in workers(folder):
        os.kill(number, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "process 1 of hardware.processes=2 has ended: its process was ended by SIGKILL" in errors
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"


def test_one_process_has_the_hash_that_it_had(run: Runner) -> None:
    _, folder = run("training.max_steps=1")
    found = read_file(folder / "spec.yaml")
    assert found["hardware"]["processes"] == 1
    spec, facts = RunSpec.read(folder / "spec.yaml")
    older = json.loads(json.dumps({key: value for key, value in found.items() if key not in ("format", "provenance")}))
    del older["hardware"]["processes"]
    kept = facts["model_fingerprint"], facts["data_fingerprint"]
    assert RunSpec.from_dict(older).spec_hash(*kept) == spec.spec_hash(*kept) == facts["spec_hash"]


def test_a_rank_of_other_launchers_means_nothing(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result, folder = run("training.max_steps=1")
    assert result["status"] == "finished" and (folder / "result.json").exists()


def test_alone_nothing_is_summed() -> None:
    layer = nn.Linear(2, 2)
    assert ALONE.total(1, 2.5, device=torch.device("cpu")) == [1, 2.5]
    ALONE.sum_gradients(layer.parameters())
    ALONE.refuse_unequal(layer)
    assert layer.weight.grad is None and ALONE.reason() is None


def test_buckets_keep_order_and_dtypes_apart() -> None:
    wide, long = torch.zeros(3, dtype=torch.float64), torch.zeros(1 << 23)  # 32 MiB
    found = list(_buckets([torch.zeros(2), torch.zeros(3), wide, torch.zeros(1), long, torch.zeros(1)]))
    assert [[tuple(t.shape) for t in bucket] for bucket in found] == [
        [(2,), (3,)], [(3,)], [(1,)], [(1 << 23,)], [(1,)]
    ]  # fmt: skip


def _gone(folder: Path) -> bool:
    last = time.monotonic() + 30
    while workers(folder) and time.monotonic() < last:
        time.sleep(0.1)
    return not workers(folder)
