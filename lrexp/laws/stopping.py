"""Runs that a signal stops on the way."""

from __future__ import annotations

import os
import signal

import pytest

from lrexp.engine.loop import Loop


def stop_after(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Lets a SIGTERM come after each of these steps, but not where a resumed run begins."""
    step = Loop._timed_step

    def stopping(loop: Loop) -> None:
        step(loop)
        if loop.state.step in steps and loop.state.step not in loop.state.resumed_from:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_timed_step", stopping)
