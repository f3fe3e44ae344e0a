"""lrexp plot DIR... [--kind curves|pareto|rates] [--x COST] [--metric NAME] [--tuned KEY] [-o FILE]

Draws the runs in DIR, at any depth, grouped over seeds as by lrexp table, with a panel for each dataset and model.

--kind curves (the default) shows the training loss, and the primary metric where runs are evaluated on their way,
against the step: mean and standard deviation over at least three finished seeds, thin lines for other runs.
--kind pareto shows the final metric against --x trainable_parameters (the default), peak_memory_bytes, train_seconds or
step_seconds, and the Pareto front: what no other row beats on both. --kind rates shows it against the learning rate, a
line for each method; runs that failed are crossed marks at the edge. Bars are 95 % intervals (t over at least three
seeds); hollow marks have fewer seeds and no interval. Points of one cost stand side by side.

--metric NAME shows another metric: of result.json (validation_accuracy), with curves of metrics.jsonl
(validation/loss). --tuned KEY[,KEY] draws of rows that differ in these keys alone the best one, chosen on held-out data
(see lrexp table --help). -o FILE ends with .svg, .pdf or .png; default KIND.svg, in the current folder. A picture of
that name is replaced. The same runs give the same bytes. Needs matplotlib: pip install "lrexp[plot]".

Ends with 0; 2 when there is nothing to draw, or a run's files are damaged (the others are drawn).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lrexp.commands.options import Parser
from lrexp.report import curves, pareto, rates
from lrexp.report.collect import collect
from lrexp.report.figure import FORMATS, Drawing, save
from lrexp.report.group import Group, group
from lrexp.report.labels import ordered
from lrexp.report.panels import panels
from lrexp.report.scale import COSTS
from lrexp.report.tuned import tuned
from lrexp.spec.errors import InputError

KINDS = ("curves", "pareto", "rates")
COST = "trainable_parameters"
MOST_ROWS = 12


def main(arguments: list[str]) -> int:
    """Runs the command: 0, or 2 where files of some run are damaged. Raises InputError if there is nothing to draw."""
    options = _parse(arguments)
    path = options.out or Path(f"{options.kind}.svg")
    _check(options, path)
    runs = collect(options.directories)
    sound = [run for run in runs if run.status != "damaged"]
    if not sound:
        more = f" (and {len(runs) - 1} more)" if len(runs) > 1 else ""
        raise InputError(f"{runs[0].reason}{more}")
    groups = group(sound)
    keys = [key for key in options.tuned.split(",") if key]
    groups = ordered(tuned(groups, keys) if keys else groups)
    drawing = _draw(options, groups)
    save(drawing.figure, path)
    print(path)
    for note in drawing.notes + _crowded(groups, options.kind):
        print(f"lrexp plot: {note}", file=sys.stderr)
    if len(sound) < len(runs):
        print(f"lrexp plot: {len(runs) - len(sound)} of {len(runs)} runs have damaged files", file=sys.stderr)
    return 2 if len(sound) < len(runs) else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("plot", formats=False)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--x", choices=tuple(COSTS))
    parser.add_argument("--metric", metavar="NAME")
    parser.add_argument("--tuned", default="", metavar="KEY")
    parser.add_argument("-o", dest="out", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace, path: Path) -> None:
    """Raises InputError for options that do not go together, before any run is read."""
    if options.x and options.kind != "pareto":
        raise InputError(f"plot: --x {options.x} goes with --kind pareto, this is {options.kind}")
    if options.kind == "rates" and rates.RATE in options.tuned.split(","):
        raise InputError(f"plot: --tuned {rates.RATE} leaves one rate of each method: --kind rates shows them all")
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise InputError(f"plot: -o {path}: a picture ends with .{', .'.join(FORMATS[:-1])} or .{FORMATS[-1]}")
    if not path.parent.is_dir():
        raise InputError(f"plot: -o {path}: there is no folder {path.parent}")


def _draw(options: argparse.Namespace, groups: list[Group]) -> Drawing:
    if options.kind == "curves":
        return curves.draw(groups, options.metric)
    if options.kind == "pareto":
        return pareto.draw(groups, options.x or COST, options.metric)
    return rates.draw(groups, options.metric)


def _crowded(groups: list[Group], kind: str) -> list[str]:
    """What helps where a panel has more rows than a reader can tell apart; rates are lines already."""
    most = max(len(panel.groups) for panel in panels(groups))
    if kind == "rates" or most <= MOST_ROWS:
        return []
    return [f"{most} rows in one panel; --tuned KEY draws of those that differ in KEY alone the best one"]
