"""Plots accuracy against the intrinsic dimension d, and says where each projection crosses 90 % of full training.

    python scripts/plot_dimension.py outputs/subspaces outputs/full docs/study/mnist_dimension.svg   # needs matplotlib

The first folder holds runs of method=intrinsic_dimension over d, projections, rates and seeds, the second those of
method=full. Each point is at the rate that is best on the data held out for that (`lrexp table --tuned`); bars are the
standard deviation over seeds. The crossing is interpolated linearly between two d; the next larger d must pass too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lrexp.report.collect import collect
from lrexp.report.figure import grid, legend, marks, save, style
from lrexp.report.group import Group, group
from lrexp.report.scale import logarithmic
from lrexp.report.tuned import tuned

RATE = "training.learning_rate"
Point = tuple[int, float, float]  # d, mean, standard deviation over seeds


def best(folder: str) -> list[Group]:
    """The rows of a folder, each at its best rate."""
    return tuned(group(collect([folder])), [RATE])


def curves(groups: Sequence[Group]) -> dict[str, list[Point]]:
    """Points by projection, in the order of d."""
    found: dict[str, list[Point]] = {}
    for one in groups:
        if one.summary is not None:
            point = (one.identity["method.intrinsic_dimension"], one.summary.mean, one.summary.spread or 0.0)
            found.setdefault(one.identity["method.projection"], []).append(point)
    return {name: sorted(points) for name, points in found.items()}


def crossing(points: Sequence[Point], level: float) -> float | None:
    """The d at which the level is reached and kept; None where it never is."""
    passed = [mean >= level for _, mean, _ in points]
    for i, (before, after) in enumerate(pairwise(points)):
        if not passed[i] and all(passed[i + 1 :]):
            return before[0] + (level - before[1]) / (after[1] - before[1]) * (after[0] - before[0])
    return float(points[0][0]) if all(passed) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("subspaces", "full", "out"):
        parser.add_argument(name)
    given = parser.parse_args()
    (full,) = best(given.full)
    assert full.summary is not None
    baseline = full.summary.mean
    print(f"full training {baseline:.4f}, 90 % of it {0.9 * baseline:.4f}")
    found = curves(best(given.subspaces))
    for name, points in found.items():
        at = crossing(points, 0.9 * baseline)
        print(f"{name}: crosses at d = {'none' if at is None else round(at)}")
        for d, mean, spread in points:
            print(f"  {d:6d}  {mean:.4f} ± {spread:.4f}  {mean / baseline:.3f} of full")
    plot(found, baseline, given.out)


def plot(found: dict[str, list[Point]], baseline: float, out: str) -> None:
    """Writes the figure; its format goes by the ending of `out`."""
    with style():
        figure, (axes,) = grid(1, 1)
        entries: dict[str, Any] = {}
        for name, mark in marks(list(found)).items():
            ds, means, spreads = zip(*found[name], strict=True)
            entries[name] = axes.errorbar(ds, means, yerr=spreads, elinewidth=0.9, **vars(mark))
        entries["full training"] = axes.axhline(baseline, color="0.3", linewidth=1)
        entries["90 % of it"] = axes.axhline(0.9 * baseline, color="0.3", linewidth=1, linestyle="--")
        logarithmic(axes, "x", [d for points in found.values() for d, _, _ in points])
        axes.set(xlabel="intrinsic dimension d", ylabel="accuracy (test)")
        legend(figure, entries)
    save(figure, Path(out))


if __name__ == "__main__":
    main()
