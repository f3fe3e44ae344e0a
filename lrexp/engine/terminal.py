"""Standard error as a place to show progress: a terminal that has been closed ends no run."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TextIO

from rich.console import Console


class Lasting(io.TextIOBase):
    """A text stream; what cannot be written to it any more is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with contextlib.suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Sends it off, if there is still someone to read it."""
        with contextlib.suppress(OSError):
            self.stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The descriptor, which tells the width of a terminal."""
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """How text becomes bytes: decides which signs can be drawn."""
        return self.stream.encoding


def console() -> Console:
    """Where runs and sweeps show how far they are."""
    return Console(file=Lasting(sys.stderr), highlight=False)  # type: ignore[arg-type]
