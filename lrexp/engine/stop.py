"""SIGINT, SIGTERM, SIGUSR1 and SIGHUP (the terminal has been closed) ask a run to write a checkpoint and stop.

A second SIGINT stops it at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from lrexp.spec.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], object]


class StopRequest:
    """A context in which the signals set `asked` instead of ending the process."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = install(self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        restore(self._before)

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.asked:
            raise Interrupted(f"stopped by {self.asked}; the same command goes on from the last checkpoint")

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


class _Stop(BaseException):
    """On its way from a signal's handler to `at_once`."""


@contextmanager
def at_once() -> Iterator[None]:
    """Before a run has begun there is nothing to save: a signal ends the block at once. Raises Interrupted.

    What the handler itself raises is no Exception, which code on the way may catch, and no KeyboardInterrupt, after
    which Python may end the process by SIGINT. Where a library makes an error of its own of it, that is no error.
    """
    came: list[str] = []

    def take(number: int, frame: FrameType | None) -> None:
        came.append(f"stopped by {signal.Signals(number).name}")
        raise _Stop

    before = install(take)
    try:
        yield
    except (Exception, _Stop):
        if came:
            raise Interrupted(came[0]) from None
        raise
    finally:
        restore(before)


def install(handler: Handler) -> dict[int, Any]:
    """Sets the handler for all signals, where that can be done: in the main thread. Returns the former ones.

    Where SIGHUP is ignored it stays so: `nohup` has asked for that.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def restore(handlers: dict[int, Any]) -> None:
    """Sets the handlers that `install` has found."""
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set by Python
