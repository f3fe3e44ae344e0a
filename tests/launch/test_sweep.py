"""Sweeps: nothing lost, nothing run twice, whoever is killed; equal bytes in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrexp.cli import main
from tests.conftest import merged

LONG = ("training.max_steps=400", "training.save_steps=5", "training.logging_steps=5")


def line(tiny: list[str], root: Path, *words: str) -> list[str]:
    options = [word for word in words if word.startswith("-")]
    overrides = (*(word for word in words if not word.startswith("-")), f"output_dir={root}")
    return ["train", "-m", *options, *merged(tiny, overrides)]


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lrexp", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float = 60.0) -> None:
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "it did not come"
        time.sleep(0.01)


def workers(root: Path) -> list[int]:
    """Processes that work in a folder of the sweep."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            command = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"lrexp.launch.worker" in command and any(os.fsencode(root) in word for word in command):
            found.append(int(place.name))
    return found


def results(root: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in root.glob("*/result.json")}


def contents(root: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "adapter.safetensors", "predictions.parquet")
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for name in names for p in root.glob(f"*/{name}")}


def test_killed_launcher_and_killed_worker_lose_nothing(tiny: list[str], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = (*LONG, "method=lora", "seed=1,2,3", "--launcher=pool", "--jobs=2")
    assert main(line(tiny, whole, *words)) == 0
    launcher = start(line(tiny, killed, *words))
    wait_for(lambda: len(list(killed.glob("*/checkpoints/step-*"))) >= 2)
    launcher.kill()
    launcher.communicate()
    wait_for(lambda: not workers(killed), 20)  # no orphan goes on
    launcher = start(line(tiny, killed, *words))
    wait_for(lambda: workers(killed))
    time.sleep(0.5)
    os.kill(workers(killed)[0], signal.SIGKILL)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, out + err
    assert "SIGKILL" in err
    assert main(line(tiny, killed, *words)) == 0
    assert contents(killed) == contents(whole)
    before = {p: p.stat().st_mtime_ns for p in killed.glob("*/result.json")}
    assert main(line(tiny, killed, *words)) == 0  # finished runs are not run again
    assert {p: p.stat().st_mtime_ns for p in killed.glob("*/result.json")} == before


def test_a_failure_is_a_row_and_the_rest_goes_on(tiny: list[str], tmp_path: Path, capfd) -> None:
    words = ("training.learning_rate=1e-2,1e30", "training.max_grad_norm=null", "optimizer=sgd")
    assert main(line(tiny, tmp_path, *words)) == 1
    assert "failed" in capfd.readouterr().err
    assert sorted(r["status"] for r in results(tmp_path).values()) == ["failed", "finished"]
    assert main(line(tiny, tmp_path, *words)) == 1  # not tried again without --retry
    assert {r["status"] for r in results(tmp_path).values()} == {"failed", "finished"}

    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
    assert main(line(tiny, tmp_path, *words, "--retry")) == 1
    after = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
    assert [json.loads(p.read_text())["status"] for p in after if after[p] != before[p]] == ["failed"]


def test_fail_fast_starts_no_other(tiny: list[str], tmp_path: Path) -> None:
    words = ("training.learning_rate=1e30,1e-2", "training.max_grad_norm=null", "optimizer=sgd", "--fail-fast")
    assert main(line(tiny, tmp_path, *words)) == 1
    assert [r["status"] for r in results(tmp_path).values()] == ["failed"]


def test_a_run_that_another_holds_is_waited_for(tiny: list[str], tmp_path: Path) -> None:
    assert main(line(tiny, tmp_path, "seed=1", "--dry-run")) == 0
    holder = subprocess.Popen([sys.executable, "-m", "lrexp", *line(tiny, tmp_path, *LONG, "seed=1")])
    wait_for(lambda: list(tmp_path.glob("*/checkpoints/step-*")))
    assert main(line(tiny, tmp_path, *LONG, "seed=1")) == 0
    assert holder.wait(60) == 0
    assert [r["costs"]["resumed_from"] for r in results(tmp_path).values()] == [[]]  # one process ran it, whole


def test_interrupted_by_ctrl_c_with_checkpoints(tiny: list[str], tmp_path: Path) -> None:
    launcher = start(line(tiny, tmp_path, *LONG, "seed=1,2"))
    wait_for(lambda: list(tmp_path.glob("*/checkpoints/step-*")))
    launcher.send_signal(signal.SIGINT)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 130
    assert "same line" in err and "Traceback" not in err
    assert not workers(tmp_path)


def test_dry_run_lists_and_writes_nothing(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line(tiny, tmp_path / "none", "seed=range(1,4)", "--dry-run")) == 0
    assert capsys.readouterr().out.count("waiting") == 3
    assert main(line(tiny, tmp_path / "none", "seed=range(1,4)", "--dry-run", "--format=json")) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["waiting"] * 3
    assert not (tmp_path / "none").exists()


def test_one_wrong_run_stops_the_sweep_before_it_starts(tiny: list[str], tmp_path: Path) -> None:
    assert main(line(tiny, tmp_path / "none", "method.r=4,99")) == 2
    assert not (tmp_path / "none").exists()


def test_a_sweep_is_refused_whole_where_one_of_its_runs_would_train_nothing(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = merged(tiny, ("method=svd_compress", "method.repair=none", "training.max_steps=0,1"))
    assert main(["train", "-m", *words, f"output_dir={tmp_path / 'sweep'}"]) == 2
    assert "trains nothing here" in capsys.readouterr().err and not (tmp_path / "sweep").exists()
