"""Looks at the machine's processes while sweeps run: which runs' workers there are, and when."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from pathlib import Path

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
