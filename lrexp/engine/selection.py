"""Evaluations during training, and which step's weights a run ends with: the last, or the best on a split."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from lrexp.engine import checkpoint
from lrexp.engine.evaluate import predict
from lrexp.spec.result import LOWER_IS_BETTER

if TYPE_CHECKING:
    from lrexp.engine.loop import Loop


class Selection:
    """The selection rule of one run. The best weights lie in checkpoints/best/."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.rule = loop.spec.training.selection
        self.metric = loop.spec.training.selection_metric or loop.task.primary_metric
        self.split = loop.task.reported if self.rule == "best_on_test" else loop.task.selection or loop.task.reported
        self.folder = loop.folder / "checkpoints" / "best"

    def is_due(self) -> bool:
        """Whether to evaluate now: every `eval_steps`; for a rule that selects, else every epoch, and at the end."""
        every, step = self.loop.spec.training.eval_steps, self.loop.state.step
        if step == 0:
            return False
        if self.rule == "last":
            return every is not None and step % every == 0
        return step % (every or self.loop.sampler.steps_per_epoch) == 0 or step == self.loop.context.total_steps

    def evaluate(self) -> None:
        """Evaluates on the split that the rule looks at, and keeps the weights if they are the best so far."""
        begin = time.perf_counter()
        loop, metrics = self.loop, self.measure()
        if self.rule != "last":
            self._keep_if_best(metrics[self.metric])
        loop.record.add(loop.state.step, {f"{self.split}/{k}": v for k, v in metrics.items()})
        loop.state.evaluated = loop.state.step
        loop.state.evaluate_seconds += time.perf_counter() - begin

    def measure(self) -> dict[str, float]:
        """The metrics of now on the split that the rule looks at. Raises Interrupted after a signal."""
        loop, task = self.loop, self.loop.task
        size = loop.spec.training.per_device_eval_batch_size
        columns = predict(
            loop.model, task, task.splits[self.split], size, loop.context.device, loop.evaluation, loop.stop.check
        )
        return task.metrics(columns)

    def restore(self) -> None:
        """Brings the best weights back into the model, where the rule has kept some."""
        if self.loop.state.best_step is None:
            return
        try:
            saved = checkpoint.read(self.folder)
            checkpoint.load_model_state(self.loop.model, saved.model(), self.loop.whole)
            self.loop.method.load_state_dict(saved.part("method", self.loop.context.device))
        except ValueError as error:
            raise checkpoint.misfit(self.folder, error) from error

    def _keep_if_best(self, value: float) -> None:
        """The first of equal values stays; a value that is no number is never the best."""
        state = self.loop.state
        value = -value if self.metric in LOWER_IS_BETTER else value
        if math.isnan(value) or (state.best is not None and value <= state.best):
            return
        state.best, state.best_step = value, state.step
        own = checkpoint.model_state(self.loop.model, self.loop.whole)
        checkpoint.write(self.folder, own, {"method": self.loop.method.state_dict()})
