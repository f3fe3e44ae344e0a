"""How long a sweep still takes: the runs' steps at the pace seen so far, start-up and evaluation beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lrexp.launch.job import Job


@dataclass
class Watch:
    """A run's recorded steps as its process was started, the first it has recorded itself, and the latest."""

    begin: float
    before: int
    first: tuple[int, float] | None = None
    last: tuple[int, float] | None = None

    def see(self, step: int, now: float) -> None:
        """Takes in the latest recorded step; it falls where a resumed run cuts the record back to its checkpoint."""
        if self.first is None or self.last is None:
            if step != self.before:
                self.first = self.last = (step, now)
        elif step > self.last[0]:
            self.last = (step, now)

    def measured(self) -> tuple[int, float]:
        """Steps and seconds between the first record and the latest."""
        if self.first is None or self.last is None:
            return 0, 0.0
        return self.last[0] - self.first[0], self.last[1] - self.first[1]


class Forecast:
    """Looks at the jobs of a sweep, of which `size` go on at a time, and says how long it still takes."""

    def __init__(self, jobs: list[Job], size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.jobs, self.size, self.clock = jobs, size, clock
        self.before = [job.step() for job in jobs]
        self.watches: dict[int, Watch] = {}

    def look(self) -> None:
        """Takes in where the running jobs are."""
        now = self.clock()
        for i, job in enumerate(self.jobs):
            if job.state == "running":
                self.watches.setdefault(i, Watch(now, self.before[i])).see(job.step(), now)

    def left(self) -> float | None:
        """Seconds until all jobs are done; None as long as nothing is known."""
        steps = sum(watch.measured()[0] for watch in self.watches.values())
        pace = sum(watch.measured()[1] for watch in self.watches.values()) / steps if steps else 0.0
        beside = self._beside_steps(pace)
        if not steps and beside is None:
            return None
        lengths = [self._length(i, pace, beside or 0.0) for i, job in enumerate(self.jobs) if self._goes_on(job)]
        return max([sum(lengths) / self.size, *lengths]) if lengths else 0.0

    def _beside_steps(self, pace: float) -> float | None:
        """Seconds of a run that are not steps: of finished runs, or as long as there are none the start-up alone."""
        watches = {i: watch for i, watch in self.watches.items() if watch.first}
        done = [i for i in watches if self.jobs[i].state == "finished"]
        ends = {i: (self.jobs[i].steps, self.jobs[i].seconds) for i in done} or {
            i: (watch.first[0], watch.first[1] - watch.begin) for i, watch in watches.items() if watch.first
        }
        if not ends:
            return None
        return sum(max(0.0, s - pace * max(0, step - self.before[i])) for i, (step, s) in ends.items()) / len(ends)

    def _length(self, i: int, pace: float, beside: float) -> float:
        """Seconds that a job still takes."""
        job, watch = self.jobs[i], self.watches.get(i)
        whole = beside + pace * max(0, job.steps - self.before[i])
        if watch is None or job.state != "running":
            return whole
        done = watch.last[0] if watch.last else self.before[i]
        return max(whole - (self.clock() - watch.begin), pace * max(0, job.steps - done))

    @staticmethod
    def _goes_on(job: Job) -> bool:
        return job.state in ("waiting", "running")
