"""A terminal that has been closed ends no run, and asks for a checkpoint, unless `nohup` has asked for silence."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console

from lrexp.engine.stop import StopRequest
from lrexp.engine.terminal import Lasting
from lrexp.spec.errors import Interrupted


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


def test_what_cannot_be_shown_is_dropped() -> None:
    Console(file=Lasting(Gone()), force_terminal=True).print("step 1/10")  # type: ignore[arg-type]
    seen = io.StringIO()
    Console(file=Lasting(seen)).print("step 1/10")  # type: ignore[arg-type]
    assert seen.getvalue() == "step 1/10\n"


def test_a_closed_terminal_asks_for_a_checkpoint() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may themselves run under nohup
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Interrupted, match="SIGHUP"):
                stop.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
