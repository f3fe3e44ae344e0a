"""kill -9 in the middle of a run: the same line goes on and ends with the same bytes.

Of each method the laws try the same by a stop within the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import merged


def line(tiny: list[str], method: str, folder: Path) -> list[str]:
    setting = ("training.max_steps=90", "training.save_steps=3", f"method={method}", f"output_dir={folder}")
    return [sys.executable, "-m", "lrexp", "train", *merged(tiny, setting)]


def go(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def killed_after_a_checkpoint(command: list[str], folder: Path, steps: int) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = time.monotonic() + 60
    while not any(int(p.name[5:]) >= steps for p in (folder / "checkpoints").glob("step-*")):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < last, "no checkpoint came"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("method", ["galore", "lora"])  # a state of its own in the optimizer; an adapter
def test_killed_and_resumed_ends_with_the_same_bytes(method: str, tiny: list[str], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    go(line(tiny, method, whole))
    for steps in (3, 30):
        killed_after_a_checkpoint(line(tiny, method, killed), killed, steps)
    go(line(tiny, method, killed))
    names = ["metrics.jsonl", "predictions.parquet", next(whole.glob("*.safetensors")).name]
    assert [n for n in names if (whole / n).read_bytes() != (killed / n).read_bytes()] == []
    results = [json.loads((f / "result.json").read_text()) for f in (whole, killed)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert len(results[1]["costs"]["resumed_from"]) == 2
