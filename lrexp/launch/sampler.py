"""Where the values of a tuning come from: a grid at once, or round by round from Optuna, which learns from each."""

from __future__ import annotations

from typing import Any, Protocol

from lrexp.spec.errors import InputError
from lrexp.spec.result import LOWER_IS_BETTER
from lrexp.spec.tuning import Tuning, grid, rounded

ROUND = 4  # values at a time from Optuna


class Sampler(Protocol):
    """Gives values until it has none left, and is told how good they were."""

    def ask(self) -> list[float]:
        """The values of the next round; none after the last."""
        ...

    def tell(self, value: float, metric: str, measured: float | None, has_ended: bool) -> None:
        """How good a value was at the last rung it came to, None if its run failed, and whether that was the last."""
        ...


class Grid:
    """All values at once."""

    def __init__(self, tuning: Tuning, low: float, high: float, is_whole: bool) -> None:
        self.values = grid(low, high, tuning.trials, is_whole)

    def ask(self) -> list[float]:
        """The grid, once."""
        values, self.values = self.values, []
        return values

    def tell(self, value: float, metric: str, measured: float | None, has_ended: bool) -> None:
        """A grid learns nothing."""


class TPE:
    """Optuna's tree-structured Parzen estimator, seeded: the same answers lead to the same questions."""

    def __init__(self, tuning: Tuning, low: float, high: float, is_whole: bool, seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise InputError('tune.sampler=tpe needs Optuna: pip install "lrexp[tune]", or take the grid') from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.low, self.high, self.is_whole, self.left = optuna, low, high, is_whole, tuning.trials
        self.study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=ROUND))
        self.asked: dict[float, Any] = {}

    def ask(self) -> list[float]:
        """The values of a round, each once."""
        self.asked = {}
        for _ in range(min(ROUND, self.left)):
            trial = self.study.ask()
            log = self.low > 0
            if self.is_whole:
                value: float = trial.suggest_int("value", int(self.low), int(self.high), log=log)
            else:
                value = trial.suggest_float("value", self.low, self.high, log=log)
            self.asked.setdefault(rounded(value, self.is_whole), trial)
            self.left -= 1
        return list(self.asked)

    def tell(self, value: float, metric: str, measured: float | None, has_ended: bool) -> None:
        """Takes in one value of the round."""
        trial, states = self.asked[value], self.optuna.trial.TrialState
        if measured is None:
            self.study.tell(trial, state=states.FAIL)
            return
        loss = measured if metric in LOWER_IS_BETTER else -measured
        trial.report(loss, step=1)
        self.study.tell(trial, loss) if has_ended else self.study.tell(trial, state=states.PRUNED)
