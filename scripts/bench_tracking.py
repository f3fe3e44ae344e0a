"""What tracking=wandb costs a run when the server hangs: wall time beside tracking=none, in turns, in one run.

    python scripts/bench_tracking.py                                   # the embedded default, 7 rounds
    python scripts/bench_tracking.py --rounds 1 --max-steps 20 dataset.max_eval_samples=100

A server on the loopback lets each request wait for 30 s. A round is one run with and one without the mirror, the order
changing from round to round; the figure is the median of the rounds' ratios. Arguments with an equals sign go to
`lrexp train`. Exit code 1 if a run fails, says nothing of a mirror that is missing, or its record differs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HANG = 30.0  # seconds that the server lets each request wait
FILES = ("metrics.jsonl", "predictions.parquet", "adapter.safetensors", "model.safetensors")


class Hanging(BaseHTTPRequestHandler):
    """Answers every request, late."""

    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers.get("content-length", 0)))
        time.sleep(HANG)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has left is no error."""


@dataclass(frozen=True)
class Run:
    """One run: its wall and CPU time, its own files, what it said."""

    wall: float
    cpu: float
    files: dict[str, bytes]
    said: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--max-steps", type=int, help="default: that of the run, 188 for the embedded default")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    overrides = [*options.overrides, *([f"training.max_steps={options.max_steps}"] if options.max_steps else [])]
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {' '.join(overrides)}", flush=True)
    server = Server(("127.0.0.1", 0), Hanging)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    rounds = []
    for turn in range(options.rounds):
        order = ("none", "wandb") if turn % 2 == 0 else ("wandb", "none")
        pair = {tracking: run(tracking, address, overrides) for tracking in order}
        rounds.append(pair)
        words = ", ".join(f"{name} {one.wall:.1f} s (CPU {one.cpu:.1f} s)" for name, one in pair.items())
        print(f"  {words}: ratio {pair['wandb'].wall / pair['none'].wall:.4f}", flush=True)
    ratios = sorted(pair["wandb"].wall / pair["none"].wall for pair in rounds)
    print(
        f"wall time grows by {statistics.median(ratios) - 1:+.2%} (median of {len(ratios)}; goal below +2 %),", end=" "
    )
    print(f"from {ratios[0] - 1:+.2%} to {ratios[-1] - 1:+.2%}; the server was asked {Hanging.asked} times")
    broken = [law for law, holds in laws(rounds).items() if not holds]
    print(f"BROKEN: {', '.join(broken)}" if broken else "each run tells of the mirror that is missing; equal bytes")
    return 1 if broken else 0


def run(tracking: str, address: str, overrides: list[str]) -> Run:
    """One run in a folder of its own, in a world whose only wandb server is ours."""
    work = Path(tempfile.mkdtemp(prefix="lrexp-bench-"))
    words = [*overrides, f"tracking={tracking}", f"output_dir={work / 'run'}"]
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    world = {**mine, "WANDB_BASE_URL": address, "WANDB_API_KEY": "0123456789" * 4}
    begin, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", "lrexp", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=world)
    wall, after = time.monotonic() - begin, os.times()
    if done.returncode:
        sys.exit(f"a run failed ({done.returncode}): {done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    files = {name: (work / "run" / name).read_bytes() for name in FILES if (work / "run" / name).exists()}
    shutil.rmtree(work)
    return Run(wall, cpu, files, done.stderr)


def laws(rounds: list[dict[str, Run]]) -> dict[str, bool]:
    """What must hold, whatever the time."""
    first = rounds[0]["none"].files
    return {
        "the server was asked": Hanging.asked > 0,
        "a run whose mirror is missing says so": all("lrexp sync" in pair["wandb"].said for pair in rounds),
        "the runs' bytes are equal": all(one.files == first for pair in rounds for one in pair.values()),
    }


if __name__ == "__main__":
    sys.exit(main())
