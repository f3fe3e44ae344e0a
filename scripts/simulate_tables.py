"""Simulates tables of methods whose runs vary: how often `lrexp table --baseline` errs, and what it finds.

    python scripts/simulate_tables.py

Every table has one baseline and nine methods; each run's metric is a seed's own shift, common to all methods, plus
normal noise of standard deviation 1. Where no method differs from the baseline, the family-wise error is the share of
tables with any corrected p-value <= 0.05. Power is the share of tables that find one method which is better by one
standard deviation of the noise. Last, what testing over items or over seeds x items would do instead. The tests are
the functions that the table uses. It ends with 1 if the tests over seeds err more often than 5.5 %.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from lrexp.report.significance import ALPHA, holm, over_items, over_seeds

SEEDS = (2, 3, 5, 10)
METHODS = 10
BOUND = 0.055
ITEMS = 1000
RIGHT = 0.8  # of the items, on average
RUN_SPREAD = 0.0126  # standard deviation of a run's true accuracy: as large as the standard error over the items


def differences(generator: np.random.Generator, tables: int, seeds: int, effect: float) -> np.ndarray:
    """Of methods to their baseline, (tables, methods, seeds): the first method is better by `effect`."""
    shift = generator.normal(size=(tables, 1, seeds))
    runs = shift + generator.normal(size=(tables, METHODS, seeds))
    runs[:, 1] += effect
    return runs[:, 1:] - runs[:, :1]


def rounded(generator: np.random.Generator, tables: int, seeds: int) -> np.ndarray:
    """Such differences in steps of half a standard deviation, as of accuracies on few items."""
    return np.round(differences(generator, tables, seeds, 0.0) * 2) / 2


def rejected(table: np.ndarray) -> list[bool]:
    """Which methods of one table, (methods, seeds), differ significantly after correction."""
    p_values = [over_seeds(row.tolist()).p_value for row in table]
    corrected = iter(holm([p_value for p_value in p_values if p_value is not None]))
    return [p_value is not None and next(corrected) <= ALPHA for p_value in p_values]


def any_rejected(tables: np.ndarray) -> float:
    return float(np.mean([any(rejected(table)) for table in tables]))


def found(tables: np.ndarray) -> tuple[float, float]:
    """How often the first method is found, by its test alone and among all of its table."""
    alone = [over_seeds(table[0].tolist()).p_value for table in tables]
    return (
        float(np.mean([p_value is not None and p_value <= ALPHA for p_value in alone])),
        float(np.mean([rejected(table)[0] for table in tables])),
    )


def over_items_error(generator: np.random.Generator, pairs: int, seeds: int) -> float:
    """How often two equal methods differ where the right answers of `seeds` runs each are tested item by item."""
    errors = 0
    for _ in range(pairs):
        accuracies = np.clip(generator.normal(RIGHT, RUN_SPREAD, size=(2, seeds, 1)), 0, 1)
        ours, theirs = (generator.random((2, seeds, ITEMS)) < accuracies).reshape(2, -1).tolist()
        p_value = over_items(ours, theirs).p_value
        errors += p_value is not None and p_value <= ALPHA
    return errors / pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=10_000)
    tables = parser.parse_args().tables
    generator = np.random.default_rng(20)
    worst = 0.0
    for seeds in SEEDS:
        error = any_rejected(differences(generator, tables, seeds, 0.0))
        coarse = any_rejected(rounded(generator, tables, seeds))
        worst = max(worst, error)
        print(f"{seeds:2d} seeds: family-wise error {error:.4f} ({coarse:.4f} in coarse steps) of {tables} tables")
    for seeds in SEEDS:
        alone, corrected = found(differences(generator, tables, seeds, 1.0))
        print(f"{seeds:2d} seeds: power for one standard deviation {alone:.4f} alone, {corrected:.4f} in the table")
    for seeds in (1, 5):
        error = over_items_error(generator, tables // 10, seeds)
        pool = "items of single runs" if seeds == 1 else f"items of {seeds} runs each as one pool"
        print(f"{pool}: error {error:.4f} for two equal methods whose runs vary")
    print(f"worst family-wise error over seeds: {worst:.4f}, at most {BOUND}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
