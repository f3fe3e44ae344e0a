"""The mirror on wandb: what it sends, and that no server, however slow or broken, touches the run."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lrexp.engine import tracking
from lrexp.engine.record import Record
from lrexp.engine.wandb_process import follow
from tests.engine.wandb_server import KEY, read_offline, serve, wait_for
from tests.report.made_up import RESULT

SPEC = {
    "experiment": None, "seed": 1, "model": {"name": "bert"}, "dataset": {"name": "mrpc"},
    "method": {"name": "lora", "r": 8}, "tracking": {"name": "wandb", "project": "papers", "run_name": None},
}  # fmt: skip
FACTS = {"spec_hash": "0123456789", "versions": {"torch": "2"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty run folder, in a world without a wandb login, seen from an empty working directory."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("run", "home", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run"


def open_at(folder: Path, said: list[str]) -> tracking.WandbMirror:
    return tracking.WandbMirror(tracking.order(SPEC, FACTS, folder), folder, said.append)


def process_of(mirror: tracking.WandbMirror) -> tracking.Process:
    assert mirror.process is not None
    return mirror.process


def test_run_resumed_twice_and_synced_three_times_is_one_run_with_each_step_once(folder: Path) -> None:
    record, said, saved = Record(folder / "metrics.jsonl"), [], 0
    for start, stop in ((0, 7), (4, 11), (8, 13)):  # killed at 7, checkpoint at 4; killed at 11, checkpoint at 8
        record.cut(saved)
        mirror = open_at(folder, said)
        for step in range(start + 1, stop):
            record.add(step, {"train/loss": step / 10 + start})
            if step % 4 == 0:
                record.add(step, {"validation/accuracy": step / 100, "validation/loss": math.inf})
                saved = record.sync()
            mirror.look()
        if stop < 13:
            wait_for(lambda mirror=mirror: mirror.process.hear() or mirror.process.mode)
            mirror.process.kill()
    mirror.finish(RESULT)
    found = read_offline(folder)
    truth: dict[int, dict[str, float]] = {}
    for line in record.path.read_text().splitlines():
        values = json.loads(line)
        truth.setdefault(values.pop("step"), {}).update(values)
    assert shown(found) == truth and list(truth) == list(range(1, 13))
    assert found["ids"] == {tracking.run_id("0123456789", folder)} and found["exits"] == [0]
    assert (found["project"], found["name"]) == ("papers", "run")
    assert found["config"]["method"] == {"name": "lora", "r": 8} and found["config"]["spec_hash"] == "0123456789"
    assert found["summary"]["accuracy"] == RESULT["metrics"]["accuracy"]
    assert found["summary"]["costs/trainable_parameters"] == RESULT["costs"]["trainable_parameters"]
    assert said == [f"wandb: offline, in {folder}/wandb; lrexp sync {folder} sends it"]
    assert list(Path.cwd().iterdir()) == [] and [p.name for p in folder.iterdir() if p.name != "wandb"] == [
        "metrics.jsonl"
    ]
    for _ in range(3):  # as lrexp sync does
        assert tracking.replay(tracking.order(SPEC, FACTS, folder), "finished", RESULT, 60).error is None
        again = read_offline(folder)
        assert (shown(again), again["ids"], again["exits"]) == (truth, found["ids"], [0])


def shown(found: dict[str, Any]) -> dict[int, dict[str, float | None]]:
    """The rows by step; NaN is null again."""
    return {s: {n: None if v != v else v for n, v in row.items()} for s, row in found["history"].items()}


def test_healthy_server_gets_all_and_a_replay_replaces_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    own, record = tracking.run_id("0123456789", folder), Record(folder / "metrics.jsonl")
    with serve("well") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_RUN_ID", "another")
        mirror = open_at(folder, said)
        for step in (5, 10):
            record.add(step, {"train/loss": 1 / step})
            mirror.look()
        mirror.finish(RESULT)
        sent = [server.history(own)]
        outcome = tracking.replay(tracking.order(SPEC, FACTS, folder), "finished", RESULT, 20)
        sent.append(server.history(own))
    for rows in sent:
        assert [(row["_step"], row["train/loss"]) for row in rows.values()] == [(5, 0.2), (10, 0.1)]
    assert (outcome.mode, outcome.lines, outcome.error) == ("online", 2, None)
    assert {name for name, _ in server.streams} == {own}
    assert said == [f"wandb: {server.address}/me/papers/runs/{own}"]
    assert not (folder / "wandb").exists()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("hang", ""), ("500", ""), ("dead", ""), ("403", "CommError"), ("garbage", "invalid character '<'")],
)
def test_bad_server_costs_the_run_next_to_nothing(
    behaviour: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FINISH", 0.5)
    record, said, times = Record(folder / "metrics.jsonl"), [], []
    with serve(behaviour) as server:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9" if behaviour == "dead" else server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        mirror = open_at(folder, said)
        while len(times) < 20 or (reason and not said and len(times) < 1000):
            record.add(len(times), {"train/loss": 1.0})
            begin = time.perf_counter()
            mirror.look()
            times.append(time.perf_counter() - begin)
            time.sleep(0.01)
        begin = time.perf_counter()
        mirror.finish(RESULT)
        finish = time.perf_counter() - begin
    assert sorted(times)[-2] < 0.02  # some 50 us but for the first, which starts the process; the machine may be busy
    assert finish < 1.0
    assert len(said) == 1 and f"lrexp sync {folder}" in said[0] and (reason or "no answer") in said[0]
    assert process_of(mirror).child.returncode is not None
    assert len(record.path.read_text().splitlines()) == len(times)


def test_slow_server_is_told_once_and_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SLOW", 0.2)
    said: list[str] = []
    with serve("hang") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        mirror = open_at(folder, said)
        mirror.look()
        time.sleep(0.3)
        mirror.look()
        mirror.look()
        begin = time.perf_counter()
        mirror.finish(RESULT)
    assert time.perf_counter() - begin < 0.3
    assert len(said) == 1 and "no answer" in said[0]


def test_mirror_dies_with_a_killed_run(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lrexp.engine import tracking;"
        f"mirror = tracking.WandbMirror(tracking.order({SPEC!r}, {FACTS!r}, Path(sys.argv[1])), Path(), print);"
        "mirror.look(); print(mirror.process.child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        mirror = int(run.stdout.readline())
        run.send_signal(signal.SIGKILL)
    wait_for(lambda: not _runs(mirror))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_record_is_followed_line_by_line(tmp_path: Path) -> None:
    record, ended = tmp_path / "metrics.jsonl", threading.Event()
    record.write_text('{"step": 1, "a": 1.5}\nnonsense\n{"step": 2, "a": null}\n{"step": 3, "a"')
    lines = follow(record, ended)
    assert next(lines) == (1, {"a": 1.5})
    step, values = next(lines)
    assert step == 2 and math.isnan(values["a"])
    with record.open("a") as file:
        file.write(': 2}\n{"step": 4')
    ended.set()
    assert list(lines) == [(3, {"a": 2})]


def test_interrupted_before_the_first_line_starts_nothing(folder: Path) -> None:
    mirror = open_at(folder, [])
    mirror.finish(None)
    assert mirror.process is None


def test_absent_record_has_no_lines(tmp_path: Path) -> None:
    ended = threading.Event()
    ended.set()
    assert list(follow(tmp_path / "metrics.jsonl", ended)) == []


def test_id_is_that_of_spec_and_folder_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tracking.run_id("0123456789", tmp_path / "run")
    assert own == tracking.run_id("0123456789", Path("run")) == tracking.run_id("0123456789", Path("moved/run"))
    assert own not in (tracking.run_id("0123456789", Path("run-2")), tracking.run_id("9876543210", Path("run")))


def test_tracking_brings_neither_wandb_nor_torch() -> None:
    code = (
        "import lrexp.engine.tracking, lrexp.commands.sync, sys; sys.exit(bool({'wandb', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
