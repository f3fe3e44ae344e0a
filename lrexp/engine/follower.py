"""The loop of a process that trains beside the first one: the same steps, and nothing of what is written or shown."""

from __future__ import annotations

from pathlib import Path

from lrexp.engine.loop import Loop


class Follower(Loop):
    """Ends after the last step; until then it waits wherever the first process evaluates or writes."""

    def run(self) -> None:
        """Goes on to the last step. Raises RunError on a bad number."""
        self.model.train()
        with self.compiling.running(self.spec.training):
            while self.state.step < self.context.total_steps:
                self._timed_step()

    def _note_resume(self, place: Path) -> None:
        pass

    def _log(self, step: int, loss: float, norm: float | None) -> None:
        pass
