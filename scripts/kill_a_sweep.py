"""Kills the launcher of a sweep, then one of its workers, and compares the bytes with an undisturbed sweep.

    python scripts/kill_a_sweep.py                       # 12 runs of the embedded default, a few minutes on two cores
    python scripts/kill_a_sweep.py --max-steps 188 method=lora,pissa seed=1,2,3

The same line is given four times: its launcher is killed with SIGKILL in the middle, then one of its workers, then it
goes to its end, then there is nothing left to do. What is shown: nothing is lost, no run is run twice, no run's folder
ever has two processes, a finished run's result is not touched again, and the bytes are those of the undisturbed sweep.
Arguments with an equals sign go to `lrexp train -m` in place of the default ones. Exit code 1 if a law is broken.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sweep_line

FILES = ("metrics.jsonl", "predictions.parquet", "adapter.safetensors", "model.safetensors")
DEFAULT = {"method": "lora,pissa,full", "seed": "1,2,3,4", "training.save_steps": "10", "hardware.threads": "1"}
STARTED = "; spec "  # in the line of log.txt that each start of a run writes
EVERY = 0.05


class Sampler(threading.Thread):
    """Looks for worker processes below a folder: when each was seen first and last, and who stood beside whom."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.root = os.fsencode(root)
        self.seen: dict[int, tuple[str, float, float]] = {}  # process: run, first, last
        self.together: set[str] = set()  # runs that two processes had at a time
        self.alive: list[int] = []
        self.over = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> None:
        while not self.over.wait(EVERY):
            self.look()

    def look(self) -> None:
        with self.lock:
            self._look()

    def _look(self) -> None:
        now, there, seen = time.monotonic(), defaultdict(list), dict(self.seen)
        for process in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
            run = self._run_of(process)
            if run and parent(process) not in seen:  # a worker that starts git looks like two for an instant
                there[run].append(process)
                seen[process] = (run, seen.get(process, (run, now, now))[1], now)
        self.seen = seen  # another one at each look: it is read by another thread
        self.together |= {run for run, processes in there.items() if len(processes) > 1}
        self.alive = [process for processes in there.values() for process in processes]

    def _run_of(self, process: int) -> str | None:
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        if b"lrexp.launch.worker" not in words:
            return None
        return next((os.fsdecode(w).rpartition("/")[2] for w in words if w.startswith(self.root + b"/")), None)


def parent(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


class Sweep:
    """A sweep in a folder, and what its folder says."""

    def __init__(self, overrides: list[str], root: Path) -> None:
        pool = ["-m", "--launcher", "pool", "--jobs", "2"]
        self.command = [sys.executable, "-m", "lrexp", "train", *pool, *overrides, f"output_dir={root}"]
        self.root = root

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finished(self) -> dict[str, int]:
        """Finished runs, and when their results were written."""
        found = {}
        for file in self.root.glob("*/result.json"):
            if json.loads(file.read_text())["status"] == "finished":
                found[file.parent.name] = file.stat().st_mtime_ns
        return found

    def starts(self) -> dict[str, int]:
        """How often each run has begun or gone on, by its own log."""
        return {file.parent.name: file.read_text().count(STARTED) for file in self.root.glob("*/log.txt")}


class Laws:
    """What must hold; prints each."""

    def __init__(self) -> None:
        self.broken = 0

    def hold(self, name: str, holds: bool, figures: str = "") -> None:
        self.broken += not holds
        print(f"  {'holds ' if holds else 'BROKEN'}  {name}{': ' * bool(figures)}{figures}", flush=True)


def main() -> int:
    parser = sweep_line.parser(__doc__)
    options = parser.parse_args()
    overrides = sweep_line.overrides(options, DEFAULT)
    work = Path(tempfile.mkdtemp(prefix="lrexp-sweep-"))
    laws = Laws()
    whole, killed = Sweep(overrides, work / "whole"), Sweep(overrides, work / "killed")
    begin = time.monotonic()
    if whole.start().wait():
        sys.exit(f"the undisturbed sweep failed: {' '.join(whole.command)}")
    count = len(whole.finished())
    print(f"undisturbed: {count} runs in {time.monotonic() - begin:.0f} s", flush=True)
    sampler = Sampler(killed.root)
    sampler.start()
    disturb(killed, sampler, laws, count)
    sampler.over.set()
    compare(whole, killed, laws)
    shutil.rmtree(work) if not laws.broken else print(f"left for a look: {work}")
    return 1 if laws.broken else 0


def disturb(sweep: Sweep, sampler: Sampler, laws: Laws, count: int) -> None:
    """The same line four times: launcher killed, worker killed, to the end, once more."""
    launcher = sweep.start()
    wait_for(lambda: len(sampler.alive) == 2 and in_the_middle(sweep, sampler, count // 3), launcher)
    launcher.kill()
    launcher.wait()
    killed_at = time.monotonic()
    sampler.look()
    orphans, earlier = set(sampler.alive), set(sampler.seen)
    kept = [sweep.finished()]
    print(f"launcher killed: {len(kept[0])} of {count} runs finished, {len(orphans)} workers running", flush=True)

    launcher = sweep.start()
    wait_for(lambda: set(sampler.seen) - earlier, launcher)
    first = min(sampler.seen[process][1] for process in set(sampler.seen) - earlier)
    wait_for(lambda: not orphans & set(sampler.alive))
    gone = max((sampler.seen[process][2] for process in orphans), default=killed_at)
    figures = f"gone {gone - killed_at:.1f} s after it, the next launch's first run {first - killed_at:.1f} s after it"
    laws.hold("no worker outlives its launcher into the next launch's runs", gone < first, figures)
    half = (len(sweep.finished()) + count) // 2
    victim = wait_for(lambda: in_the_middle(sweep, sampler, half), launcher)[0]
    os.kill(victim, signal.SIGKILL)
    kept.append(sweep.finished())
    print(f"worker killed: {len(kept[1])} of {count} runs finished, run {sampler.seen[victim][0]}", flush=True)
    laws.hold("the launcher finishes the others and exits with 1", launcher.wait() == 1, f"{launcher.returncode}")
    kept.append(sweep.finished())
    laws.hold("it leaves the killed run alone", len(kept[2]) == count - 1, f"{len(kept[2])} of {count} finished")

    code = sweep.start().wait()
    kept.append(sweep.finished())
    laws.hold("the same line finishes the rest", code == 0 and len(kept[3]) == count, f"exit code {code}")
    before = set(sampler.seen), sweep.starts()
    code = sweep.start().wait()
    kept.append(sweep.finished())
    laws.hold("once more it starts nothing", code == 0 and (set(sampler.seen), sweep.starts()) == before)
    untouched = all(kept[-1].get(run) == written for one in kept for run, written in one.items())
    laws.hold("no finished run is begun again", untouched, "result.json as it was written first, in all of them")
    laws.hold("no run's folder has two processes", not sampler.together, ", ".join(sampler.together))
    report_starts(sweep, sampler, laws, orphans | {victim})


def in_the_middle(sweep: Sweep, sampler: Sampler, done: int) -> list[int]:
    """Workers that have written a checkpoint and are not through, once so many runs are done."""
    finished = sweep.finished()
    if len(finished) < done:
        return []
    runs = {process: sampler.seen[process][0] for process in sampler.alive}
    return [p for p, run in runs.items() if run not in finished and any(sweep.root.glob(f"{run}/checkpoints/step-*"))]


def report_starts(sweep: Sweep, sampler: Sampler, laws: Laws, struck: set[int]) -> None:
    """A run's processes are one, and one more for each that was struck down before it had finished."""
    processes: dict[str, int] = defaultdict(int)
    strikes: dict[str, int] = defaultdict(int)
    for process, (run, _, _) in sampler.seen.items():
        processes[run] += 1
        strikes[run] += process in struck
    wrong = [run for run in processes if not 1 <= processes[run] <= 1 + strikes[run]]
    figures = f"{sum(processes.values())} processes for {len(processes)} runs, {len(struck)} of them struck down"
    laws.hold("each run has one process, and at most one more where it was struck down", not wrong, figures)
    logged = {run: n for run, n in sweep.starts().items() if n > processes[run]}
    laws.hold("its log knows of no other", not logged, f"{sum(sweep.starts().values())} starts logged")


def compare(whole: Sweep, killed: Sweep, laws: Laws) -> None:
    """Every byte that a run leaves."""
    runs, compared, differ = sorted(whole.finished()), 0, []
    for run in runs:
        for name in FILES:
            one, two = whole.root / run / name, killed.root / run / name
            if one.exists():
                compared += 1
                if not two.exists() or one.read_bytes() != two.read_bytes():
                    differ.append(f"{run}/{name}")
        numbers = [json.loads((sweep.root / run / "result.json").read_text())["metrics"] for sweep in (whole, killed)]
        if numbers[0] != numbers[1]:
            differ.append(f"{run}: metrics of result.json")
    laws.hold("nothing is lost", runs == sorted(killed.finished()), f"{len(runs)} runs")
    laws.hold("metrics, weights and predictions are byte-equal", not differ, ", ".join(differ) or f"{compared} files")


def wait_for(condition: Callable[[], Any], launcher: subprocess.Popen[bytes] | None = None) -> Any:
    while not (found := condition()):
        if launcher is not None and launcher.poll() is not None:
            sys.exit("the sweep ended before it was disturbed: give a larger --max-steps")
        time.sleep(EVERY)
    return found


if __name__ == "__main__":
    sys.exit(main())
