"""What a person sees while a run goes: a live line on a terminal, a line now and then elsewhere; log.txt keeps all."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.live import Live
from rich.text import Text

from lrexp.engine.terminal import console

EVERY = 30.0  # seconds between lines where the output is no terminal


def _amount(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


class Progress:
    """Speaks to the terminal (standard error) and to log.txt."""

    def __init__(self, log: Path, title: str) -> None:
        self.console = console()
        self.log = log
        self.title = title
        self.live: Live | None = None
        self.last = 0.0
        self.noted = time.monotonic()

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(Text(self.title), console=self.console, refresh_per_second=8, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def say(self, text: str) -> None:
        """A line that stays: to the terminal and to the log."""
        self.note(text)
        self.console.print(text, soft_wrap=True, markup=False)

    def note(self, text: str) -> None:
        """A line for the log alone; a full disk does not end the run here."""
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError:
            return

    def due(self, is_last: bool) -> bool:
        """Whether `step` has something to do now."""
        now = time.monotonic()
        return is_last or now - self.noted >= EVERY or (self.live is not None and now - self.last >= 0.1)

    def step(
        self, step: int, total: int, loss: float, steps_per_second: float, tokens_per_second: float, memory: int
    ) -> None:
        """Shows where the run is."""
        self.last = time.monotonic()
        line = (
            f"{self.title}  step {step}/{total}  loss {loss:.4f}  {steps_per_second:.1f} steps/s  "
            f"{_amount(tokens_per_second)} tokens/s  {_amount(memory)}B  {(total - step) / steps_per_second:.0f} s left"
        )
        if self.live:
            self.live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        if step == total or self.last - self.noted >= EVERY:
            self.noted = self.last
            self.note(line)
            if not self.live:
                self.console.print(line, soft_wrap=True, markup=False)


class Silence(Progress):
    """Says nothing: for a process beside the one that speaks."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), "")

    def say(self, text: str) -> None:
        """Nothing."""

    def due(self, is_last: bool) -> bool:
        """Never."""
        return False
