"""What a person sees of a sweep: a live view on a terminal, a line for every run that ends elsewhere."""

from __future__ import annotations

import math
import time

from rich.console import Group
from rich.live import Live
from rich.text import Text

from lrexp.engine.terminal import console
from lrexp.launch.forecast import Forecast
from lrexp.launch.job import Job

WORDS = {
    "finished": "green",
    "failed": "red",
    "interrupted": "yellow",
    "paused": "blue",
    "running": "cyan",
    "waiting": "dim",
}


class View:
    """Counts, the runs that go on with their steps, and the time that is left."""

    def __init__(self, jobs: list[Job], size: int) -> None:
        self.jobs = jobs
        self.forecast = Forecast(jobs, size)
        self.console = console()
        self.live: Live | None = None
        self.last = 0.0

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def tell(self, job: Job) -> None:
        """A line for a run that has come to an end; a failure says why at once."""
        if job.state in ("waiting", "running"):
            return
        took = f"  {job.seconds:.0f} s" if job.seconds else "  already there"
        why = f": {job.error}" if job.error and job.state != "finished" else ""
        line = Text(f"{job.state:<11}", style=WORDS[job.state]).append(f" {job.label}{took}{why}", style="default")
        self.console.print(line, soft_wrap=True)

    def tick(self, stopping: bool) -> None:
        """Draws the live view anew."""
        if self.live is None or time.monotonic() - self.last < 0.25:
            return
        self.last = time.monotonic()
        self.forecast.look()
        lines = [Text(self._counts(stopping), style="bold")]
        for job in self.jobs:
            if job.state == "running":
                line = f"  {job.label}  step {job.step()}/{job.steps}"
                lines.append(Text(line, style=WORDS["running"], no_wrap=True, overflow="ellipsis"))
        self.live.update(Group(*lines))

    def _counts(self, stopping: bool) -> str:
        count = {state: sum(job.state == state for job in self.jobs) for state in WORDS}
        parts = [f"{count['finished']} of {len(self.jobs)} done", f"{count['running']} running"]
        parts += [f"{count[state]} {state}" for state in ("failed", "interrupted") if count[state]]
        left = self.forecast.left()
        if stopping:
            parts.append("stopping: what runs writes a checkpoint")
        elif left:
            parts.append(f"about {about(left)} left")
        return ", ".join(parts)


def about(seconds: float) -> str:
    """A rough duration: 50 s, 7 min, 3 h 20 min."""
    if seconds < 90:
        return f"{math.ceil(seconds / 10) * 10} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
