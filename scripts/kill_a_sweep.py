"""Kills the launcher of a sweep, then one of its workers, and compares the bytes with an undisturbed sweep.

    python scripts/kill_a_sweep.py                       # 12 runs of the embedded default, a few minutes on two cores
    python scripts/kill_a_sweep.py --max-steps 188 method=lora,pissa seed=1,2,3
    python scripts/kill_a_sweep.py --launcher submitit-local

The same line is given four times: its launcher is killed with SIGKILL in the middle, then one of its workers, then it
goes to its end, then there is nothing left to do. A launcher that submits and leaves is not there to be killed: a
worker is killed, then a job with the runs that it still has, as if a node were lost. What is shown: nothing is lost, no
run is run twice, no run's folder ever has two processes, a finished run's result is not touched again, and the bytes
are those of the undisturbed sweep, which a pool runs.
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
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sweep_line
from worker_sampler import EVERY, Sampler, parent

FILES = ("metrics.jsonl", "predictions.parquet", "adapter.safetensors", "model.safetensors")
DEFAULT = {"method": "lora,pissa,full", "seed": "1,2,3,4", "training.save_steps": "10", "hardware.threads": "1"}
STARTED = "; spec "  # in the line of log.txt that each start of a run writes


class Sweep:
    """A sweep in a folder, and what its folder says."""

    def __init__(self, overrides: list[str], root: Path, launcher: str = "pool") -> None:
        options = ["-m", "--launcher", launcher, "--jobs", "2"]
        self.command = [sys.executable, "-m", "lrexp", "train", *options, *overrides, f"output_dir={root}"]
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

    def states(self) -> dict[str, str]:
        """What `lrexp status` says of each run."""
        command = [sys.executable, "-m", "lrexp", "status", str(self.root), "--format", "json"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {row["run"]: row["state"] for row in json.loads(found)}

    def is_left(self) -> bool:
        """Whether nothing is queued or running any more."""
        time.sleep(1)  # it takes a process to look
        return not {"queued", "running"} & set(self.states().values())

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
    parser.add_argument("--launcher", choices=("pool", "submitit-local"), default="pool")
    options = parser.parse_args()
    overrides = sweep_line.overrides(options, DEFAULT)
    work = Path(tempfile.mkdtemp(prefix="lrexp-sweep-"))
    laws = Laws()
    whole, killed = Sweep(overrides, work / "whole"), Sweep(overrides, work / "killed", options.launcher)
    begin = time.monotonic()
    if whole.start().wait():
        sys.exit(f"the undisturbed sweep failed: {' '.join(whole.command)}")
    count = len(whole.finished())
    print(f"undisturbed: {count} runs in {time.monotonic() - begin:.0f} s", flush=True)
    sampler = Sampler(killed.root)
    sampler.start()
    {"pool": disturb, "submitit-local": disturb_submitted}[options.launcher](killed, sampler, laws, count)
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
    hold_twice(code, sweep, sampler, laws, kept, count)
    hold_in_the_end(sweep, sampler, laws, kept, orphans | {victim})


def disturb_submitted(sweep: Sweep, sampler: Sampler, laws: Laws, count: int) -> None:
    """Submitted, a worker killed, a job killed, the same line to the end, and once more."""
    laws.hold("the launcher leaves with 0", sweep.start().wait() == 0)
    laws.hold("while all is submitted the line submits nothing", sweep.start().wait() == 0 and submissions(sweep) == 1)
    wait_for(lambda: len(sampler.alive) == 2 and in_the_middle(sweep, sampler, count // 4))
    struck = in_the_middle(sweep, sampler, 0)[:1]
    os.kill(struck[0], signal.SIGKILL)
    kept = [sweep.finished()]
    print(f"worker killed: {len(kept[0])} of {count} runs finished, run {sampler.seen[struck[0]][0]}", flush=True)
    half = (len(sweep.finished()) + count) // 2
    wait_for(lambda: len(sampler.alive) == 2 and in_the_middle(sweep, sampler, half))
    victim = in_the_middle(sweep, sampler, 0)[0]
    job = parent(victim)
    assert job is not None
    os.kill(job, signal.SIGKILL)
    kept.append(sweep.finished())
    struck.append(victim)
    print(f"job killed: {len(kept[1])} of {count} runs finished, at run {sampler.seen[victim][0]}", flush=True)
    wait_for(sweep.is_left)
    kept.append(sweep.finished())
    states = Counter(sweep.states().values())
    figures = ", ".join(f"{number} {state}" for state, number in states.items())
    all_marked = sum(states.values()) == count and set(states) <= {"finished", "interrupted", "lost"}
    laws.hold("every run is finished or marked", all_marked and len(kept[2]) == states["finished"], figures)

    code = sweep.start().wait()
    wait_for(sweep.is_left)
    hold_twice(code, sweep, sampler, laws, kept, count)
    hold_in_the_end(sweep, sampler, laws, kept, set(struck))


def submissions(sweep: Sweep) -> int:
    return len(list(sweep.root.glob(".launch/*/launch.json")))


def hold_twice(code: int, sweep: Sweep, sampler: Sampler, laws: Laws, kept: list[dict[str, int]], count: int) -> None:
    """The same line has ended with `code`: all is finished, and given once more it has nothing to do."""
    kept.append(sweep.finished())
    laws.hold("the same line finishes the rest", code == 0 and len(kept[-1]) == count, f"exit code {code}")
    before = set(sampler.seen), sweep.starts()
    code = sweep.start().wait()
    kept.append(sweep.finished())
    laws.hold("once more it starts nothing", code == 0 and (set(sampler.seen), sweep.starts()) == before)


def hold_in_the_end(sweep: Sweep, sampler: Sampler, laws: Laws, kept: list[dict[str, int]], struck: set[int]) -> None:
    """What holds for every launcher; `kept` are the finished runs as they were seen on the way."""
    untouched = all(kept[-1].get(run) == written for one in kept for run, written in one.items())
    laws.hold("no finished run is begun again", untouched, "result.json as it was written first, in all of them")
    laws.hold("no run's folder has two processes", not sampler.together, ", ".join(sampler.together))
    report_starts(sweep, sampler, laws, struck)


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
