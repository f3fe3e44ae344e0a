"""The boundary of a process: errors become a line or two and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from lrexp.spec.convert import clip
from lrexp.spec.errors import InputError, Interrupted, RunError


def guarded(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Runs `command` and returns its exit code; errors become a line or two, tracebacks only under LREXP_DEBUG=1."""
    debug = os.environ.get("LREXP_DEBUG") == "1"
    if not debug and not sys.warnoptions:
        _silence_warnings()
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe has left: no one is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        code, message = _told(error)
        with contextlib.suppress(OSError):  # a terminal that has been closed
            print(f"lrexp: {message}", file=sys.stderr)
        return code


def _told(error: BaseException) -> tuple[int, str]:
    """The exit code and the message of an error."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, RunError):
        return 1, str(error)
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return 130, str(error) or "interrupted"
    kind = type(error).__name__
    return 1, f"internal error: {clip(f'{kind}: {error}', 300)} (LREXP_DEBUG=1 shows the traceback)"


def _silence_warnings() -> None:
    import warnings

    warnings.simplefilter("ignore")
