"""The time that a sweep still takes, on runs and a clock made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrexp.launch.forecast import Forecast
from lrexp.launch.job import Job
from lrexp.launch.view import about


class Clock:
    """A run of so many steps starts up for 5 s, takes `pace` seconds a step, and evaluates for 3 s."""

    now = 0.0

    def job(self, steps: int, pace: float = 0.1, before: int = 0) -> MadeUp:
        return MadeUp(self, steps, pace, before)


class MadeUp(Job):
    def __init__(self, clock: Clock, steps: int, pace: float, before: int) -> None:
        nothing: Any = None
        super().__init__(nothing, Path(), "", "", steps)
        self.clock, self.pace, self.before = clock, pace, before
        self.begin = 0.0

    def start(self) -> None:
        self.state, self.begin = "running", self.clock.now

    def finish(self) -> None:
        self.state, self.seconds = "finished", self.clock.now - self.begin

    def step(self) -> int:
        if self.state == "waiting":
            return self.before
        passed = max(0.0, self.clock.now - self.begin - 5.0)
        return min(self.steps, self.before + int(passed / self.pace + 1e-6) // 10 * 10)


def watch(forecast: Forecast, clock: Clock, until: float) -> float | None:
    while clock.now < until:
        clock.now = round(clock.now + 0.25, 2)
        forecast.look()
    return forecast.left()


def test_known_before_the_first_run_has_ended_and_weighed_by_steps() -> None:
    clock = Clock()
    jobs = [clock.job(100), clock.job(1000), clock.job(400)]
    forecast = Forecast(jobs, 1, clock=lambda: clock.now)
    assert forecast.left() is None
    jobs[0].start()
    assert watch(forecast, clock, 5.5) is None  # no step yet
    assert watch(forecast, clock, 11) == pytest.approx(4 + 105 + 45, rel=0.05)  # evaluations are not known yet
    watch(forecast, clock, 18)
    jobs[0].finish()
    assert forecast.left() == pytest.approx(108 + 48, rel=0.05)
    jobs[1].start()
    assert watch(forecast, clock, 18 + 55) == pytest.approx(53 + 48, rel=0.05)


def test_runs_beside_one_another_and_a_long_one_at_the_end() -> None:
    clock = Clock()
    jobs = [clock.job(100) for _ in range(4)]
    forecast = Forecast(jobs, 2, clock=lambda: clock.now)
    for job in jobs[:2]:
        job.start()
    watch(forecast, clock, 18)
    for job in jobs[:2]:
        job.finish()
    assert forecast.left() == pytest.approx(18, rel=0.05)
    jobs[3].state = "failed"
    assert forecast.left() == pytest.approx(18, rel=0.05)  # half a run for each of two workers would be 9
    jobs[2].state = "finished"
    assert forecast.left() == 0


def test_a_resumed_run_counts_what_is_left_of_it() -> None:
    clock = Clock()
    jobs = [clock.job(1000, before=900)]
    forecast = Forecast(jobs, 1, clock=lambda: clock.now)
    jobs[0].start()
    assert watch(forecast, clock, 10) == pytest.approx(5, rel=0.3)


def test_a_run_slower_than_others_is_not_said_to_be_over() -> None:
    clock = Clock()
    jobs = [clock.job(100), clock.job(100, pace=1.0)]
    forecast = Forecast(jobs, 1, clock=lambda: clock.now)
    jobs[0].start()
    watch(forecast, clock, 18)
    jobs[0].finish()
    jobs[1].start()
    left = watch(forecast, clock, 18 + 55)
    assert left is not None and left > 10


def test_rough_durations() -> None:
    assert [about(s) for s in (3, 41, 91, 3599, 3601, 12000)] == [
        "10 s",
        "50 s",
        "2 min",
        "1 h 00 min",
        "1 h 01 min",
        "3 h 20 min",
    ]
