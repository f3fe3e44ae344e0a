"""A pool of two one-thread workers beside serial, on the same specs in one run: throughput, and where the time goes.

    python scripts/bench_launchers.py                                  # 6 runs of the embedded default, 3 rounds
    python scripts/bench_launchers.py --rounds 1 --max-steps 10 dataset.max_eval_samples=100

Serial and pool take turns, the order changing from round to round; both give each run one thread. Arguments with an
equals sign go to `lrexp train -m`. Exit code 1 if a sweep fails, or if the two launchers' runs differ in their metrics.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import sweep_line

LAUNCHERS = {"serial": [], "pool": ["--launcher", "pool", "--jobs", "2"]}
DEFAULT = {"method": "lora,pissa,full", "seed": "1,2", "hardware.threads": "1"}


@dataclass(frozen=True)
class Sweep:
    """One sweep: its wall time, the time until its first run's process, and what its runs say."""

    seconds: float
    before: float
    metrics: dict[str, bytes]
    training: float
    evaluation: float

    @property
    def runs(self) -> int:
        return len(self.metrics)


def main() -> int:
    parser = sweep_line.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    overrides = sweep_line.overrides(options, DEFAULT)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {' '.join(overrides)}", flush=True)
    rounds: dict[str, list[Sweep]] = {name: [] for name in LAUNCHERS}
    for turn in range(options.rounds):
        for name in sorted(LAUNCHERS, reverse=bool(turn % 2)):
            sweep = run(LAUNCHERS[name], overrides)
            rounds[name].append(sweep)
            print(f"  {name:<7}{sweep.runs} runs in {sweep.seconds:.1f} s", flush=True)
    report(rounds)
    metrics = [sweep.metrics for sweeps in rounds.values() for sweep in sweeps]
    equal = all(one == metrics[0] for one in metrics)
    print("the metrics of all rounds are byte-equal" if equal else "BROKEN: the metrics differ")
    return 0 if equal else 1


def run(launcher: list[str], overrides: list[str]) -> Sweep:
    """One sweep from its first word to its exit code, in a folder of its own."""
    root = Path(tempfile.mkdtemp(prefix="lrexp-bench-"))
    command = [sys.executable, "-m", "lrexp", "train", "-m", *launcher, *overrides, f"output_dir={root}"]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not has_worker(process.pid):
        time.sleep(0.01)
    before = time.monotonic() - begin
    _, errors = process.communicate()
    seconds = time.monotonic() - begin
    if process.returncode:
        sys.exit(f"a sweep failed ({process.returncode}): {' '.join(command)}\n{errors.decode()}")
    costs = [json.loads(file.read_text())["costs"] for file in root.glob("*/result.json")]
    metrics = {file.parent.name: file.read_bytes() for file in root.glob("*/metrics.jsonl")}
    shutil.rmtree(root)
    training, evaluation = (sum(cost[f"{name}_seconds"] for cost in costs) for name in ("train", "evaluate"))
    return Sweep(seconds, before, metrics, training, evaluation)


def has_worker(launcher: int) -> bool:
    """Whether a child of the process is a run's: the launcher asks git for the version before."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"lrexp.launch.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return True
    return False


def report(rounds: dict[str, list[Sweep]]) -> None:
    """Medians over the rounds, and the median of the paired ratios."""
    for name, sweeps in rounds.items():
        rate = statistics.median(3600 * sweep.runs / sweep.seconds for sweep in sweeps)
        before = statistics.median(sweep.before for sweep in sweeps)
        parts = (statistics.median(getattr(s, part) / s.runs for s in sweeps) for part in ("training", "evaluation"))
        training, evaluation = parts
        print(f"{name}: {rate:.0f} runs an hour; {before:.1f} s until the first run's process;", end=" ")
        print(f"a run trains {training:.1f} s and evaluates {evaluation:.1f} s", end="")
        if name == "serial":
            rests = ((s.seconds - s.before - s.training - s.evaluation) / s.runs for s in sweeps)
            print(f", all else of it takes {statistics.median(rests):.1f} s", end="")
        print()
    pairs = zip(rounds["serial"], rounds["pool"], strict=True)
    ratio = statistics.median(serial.seconds / pool.seconds for serial, pool in pairs)
    print(f"throughput pool/serial {ratio:.2f} (goal 1.50 on a quiet machine)")


if __name__ == "__main__":
    sys.exit(main())
