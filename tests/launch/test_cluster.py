"""Submit and leave, by submitit's local executor: kills, requeues, the same line again; equal bytes in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from lrexp.cli import main
from lrexp.launch import record, standing
from lrexp.launch.record import Entry
from lrexp.launch.scheduler import Element, living
from lrexp.launch.task import MOST_IDLE, Task
from lrexp.spec.errors import InputError
from tests.launch.test_sweep import LONG, contents, line, results, workers

pytest.importorskip("submitit")


def until(condition: Callable[[], Any]) -> None:
    """Waits, and lets the others work: what is waited for are several processes, one after another."""
    last = time.monotonic() + 300.0
    while not condition():
        assert time.monotonic() < last, "it did not come"
        time.sleep(0.1)


def status(root: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()  # what was printed before
    assert main(["status", str(root), "--format=json"]) == 0
    return json.loads(capsys.readouterr().out)


def states(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [row["state"] for row in status(root, capsys)]


def tasks(root: Path) -> list[int]:
    """submitit's processes in a sweep's folder, the one that began first in front."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and (place / "cmdline").exists():
            command = (place / "cmdline").read_bytes()
            if b"submitit.core._submit" in command and os.fsencode(root) in command:
                found.append(int(place.name))
    return sorted(found)


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Path]:
    """A sweep's folder; nothing goes on in it after the test."""
    yield tmp_path / "killed"
    for process in tasks(tmp_path):
        os.kill(process, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_kills_and_requeues_lose_nothing(tiny: list[str], killed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The launcher leaves its processes behind, which is what the warnings would be about."""
    whole = killed.with_name("whole")
    words = (*LONG, "seed=1,2")
    sweep = line(tiny, killed, *words, "--launcher=submitit-local", "--jobs=1")
    assert main(sweep) == 0 and f"lrexp status {killed}" in capfd.readouterr().err
    assert main(sweep) == 0 and "2 queued or running before" in capfd.readouterr().err
    assert len(record.submissions(killed)) == 1  # not submitted twice
    until(lambda: list(killed.glob("*/checkpoints/step-*")))
    os.kill(tasks(killed)[0], signal.SIGUSR1)  # the job's time is over: a checkpoint, and the job is requeued
    until(lambda: len(list(killed.glob("*/checkpoints"))) == 2)
    assert sorted(states(killed, capfd)) == ["finished", "running"]
    os.kill(tasks(killed)[0], signal.SIGKILL)  # the node is lost
    until(lambda: not workers(killed) and not tasks(killed))
    until(lambda: sorted(states(killed, capfd)) == ["finished", "lost"])
    assert [result["costs"]["resumed_from"] != [] for result in results(killed).values()] == [True]

    assert main(line(tiny, whole, *words)) == 0
    assert main(sweep) == 0
    until(lambda: len(results(killed)) == 2 and not any(living(record.submissions(killed)).values()))
    assert states(killed, capfd) == ["finished"] * 2
    assert contents(killed) == contents(whole)
    assert main(sweep) == 0 and "accuracy" in capfd.readouterr().out  # all is there: the table
    assert len(record.submissions(killed)) == 2 and not list(killed.glob(".launch/*/*.pkl"))


def test_a_job_goes_on_after_a_failure_and_has_failed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = ["echo lrexp: the disk is full >&2; exit 1", "kill -KILL $$", "exit 130", "exit 0"]
    runs = [Entry(f"lora-{i}", f"seed={i}", 6, 0) for i in range(len(scripts))]
    ours = record.begin(tmp_path, "submitit-local", runs, ["a: 1\n"] * len(scripts))

    def start(folder: Path, text: str, until: None, environment: object, errors: IO[str]) -> subprocess.Popen[str]:
        folder.mkdir()
        return subprocess.Popen(["sh", "-c", scripts[int(folder.name[-1])]], stderr=errors, text=True)

    monkeypatch.setattr("lrexp.launch.task.start", start)
    monkeypatch.setattr("lrexp.launch.task.job", lambda: "7")
    with pytest.raises(SystemExit) as end:
        Task(str(ours.place), [0, 1, 2, 3])()
    assert end.value.code == 1
    words = [ours.word(number) for number in range(len(scripts))]
    assert [word.state for word in words if word] == ["failed", "interrupted", "interrupted", "finished"]
    assert [word.reason.partition(";")[0] for word in words if word] == [
        "the disk is full", "its process was ended by SIGKILL", "", ""
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--launcher=slurm", "tune=method.r", "tune.range=[2,8]"], "tune= compares runs as they go"),
        (["--launcher=submitit-local", "--fail-fast"], "needs someone waiting"),
        (["--launcher=pool", "--slurm=partition=gpu"], "add --launcher slurm"),
        (["--launcher=slurm", "--slurm=partitoin=gpu"], "Did you mean 'partition'?"),
        (["--launcher=slurm", "--jobs=0"], "at least 1"),
    ],
)
def test_what_a_cluster_cannot_do_is_one_line(
    words: list[str], said: str, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line(tiny, tmp_path / "none", "seed=1,2"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1 and not (tmp_path / "none").exists()


def test_without_submitit_or_slurm_one_line_says_so(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(line(tiny, tmp_path / "none", "--launcher=slurm")) == 2
    assert "sbatch is not here" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(line(tiny, tmp_path / "none", "--launcher=slurm")) == 2
    assert 'pip install "lrexp[cluster]"' in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def entry(root: Path) -> record.Submission:
    return record.begin(root, "slurm", [Entry("lora-1", "seed=1", 6, 0)], ["a: 1\n"])


def test_a_full_disk_leaves_no_half_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_text", fail)
    with pytest.raises(InputError, match="No space left"):
        entry(tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("word", "element", "state"),
    [
        (None, Element("7_0", "", False), "queued"),
        ("running", Element("7_0", "n1", True), "running"),
        ("running", Element("7_0", "", False), "queued"),  # its node was lost, SLURM has requeued it
        ("queued", Element("7_0", "", False), "queued"),
        ("failed", Element("7_0", "n1", True), "failed"),
        ("interrupted", Element("7_0", "n1", True), "interrupted"),
        ("interrupted", Element("7_0", "", False), "queued"),  # SLURM wanted the node for another, and requeued it
        (None, None, "lost"),
        ("running", None, "lost"),
        ("queued", None, "lost"),
        ("interrupted", None, "interrupted"),
        ("failed", None, "failed"),
    ],
)
def test_states_of_a_run_without_a_folder(
    word: str | None, element: Element | None, state: str, tmp_path: Path
) -> None:
    ours = entry(tmp_path)
    if word:
        ours.say(0, word, "7_0", "because")
    assert standing.stand(ours, 0, element).state == state


def test_a_lost_run_shows_what_the_scheduler_said_last(tmp_path: Path) -> None:
    ours = entry(tmp_path)
    ours.say(0, "running", "7_0")
    ours.log("7_0").write_text("starting\nslurmstepd: error: Detected 1 oom_kill event\nsrun: Force Terminated\n")
    assert standing.stand(ours, 0, None).last.endswith(": slurmstepd: error: Detected 1 oom_kill event")


def test_status_shows_what_was_submitted_where_the_scheduler_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = entry(tmp_path)
    ours.say(0, "running", "7_0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["status", str(tmp_path), "--format=json"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)
    assert (row["run"], row["state"], row["steps"], row["job"]) == ("lora-1", "running", 6, "7_0")
    assert "squeue is not here" in err
    assert main(["status", str(tmp_path / "lora-1")]) == 2  # no such folder yet


def test_status_of_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "no run in it" in capsys.readouterr().err


def test_a_run_that_comes_no_further_is_not_requeued_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    ours, idle = entry(tmp_path), 0
    for left in range(MOST_IDLE - 1, -1, -1):
        task = Task(str(ours.place), [0], idle=idle)
        task.current = ours, 0, subprocess.Popen(["sleep", "60"]), None
        delayed = task.checkpoint()
        task.current[2].wait()
        word = ours.word(0)
        assert word is not None and word.state == ("queued" if left else "failed")
        assert (delayed is None) == (left == 0)
        idle = delayed.function.idle if delayed else idle
