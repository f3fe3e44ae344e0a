"""lrexp table DIR... [--baseline METHOD] [--tuned KEY] [--rows KEY --columns KEY] [--with-paper] [--format FORMAT]

Rows of the finished, failed and running runs in DIR, at any depth: a run is a folder with spec.yaml. Runs with the same
spec apart from the seed, the same data and the same weights of the base model make one row: seeds, learning rates
tried, mean ± half-width of the 95 % interval (t over seeds) of the primary metric, trainable parameters, memory,
preparation, step and training time. Keys in which the rows differ are columns. Runs on other data are never pooled.
Marks: untuned (one rate tried), fewer than 3 seeds, selected on test, and what else a reader must know.
--format: rich, md, latex (booktabs), html (a fragment for a page), csv and json (numbers, bytes, seconds).

--baseline METHOD tests each row against that method's row on the same dataset, model and metric, paired over the seeds
that both have: Student's t, from ten seeds on exact flips of the differences' signs; two-sided, with Holm's correction
within dataset, model and metric. Where both rows are one run each, accuracy and exact_match are tested by permutation
over items, from predictions.parquet, and the p-value says so: it says nothing of how runs vary. The best mean is bold
only if it is better than the baseline with a corrected p <= 0.05 over seeds (the baseline, if all others differ so).

--tuned KEY[,KEY] (training.learning_rate, say) shows of rows that differ in these keys alone the one with the best mean
on the split to select on, which is not the one that is reported: validation beside test; where validation is reported,
the part of train that training.selection=best holds out. A row without such a mean, because its runs failed or have not
finished, is left out where another of its kind has one.

--rows KEY --columns KEY makes a table of one mean a cell, by any keys of the spec (method.r), or by method, model,
dataset or experiment. Several rows in one cell are refused; csv and json have one object a cell.

--with-paper shows beside the runs of an experiment the value that its paper reports, marked as copied; no test uses it.

Ends with 0, also where runs have failed; 2 when a DIR cannot be read or holds no run, or a run's files are damaged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from lrexp.report.collect import collect
from lrexp.report.entry import Options
from lrexp.report.table import FORMATS, print_pivot, print_table
from lrexp.spec.errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"table: {message}. See lrexp table --help")


def main(arguments: list[str]) -> int:
    """Runs the command: 0, or 2 where files of some run are damaged. Raises InputError if there is nothing to show."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    asked = _parse(arguments)
    runs = collect(asked.directories)
    damaged = [run for run in runs if run.status == "damaged"]
    if len(damaged) == len(runs):
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise InputError(f"{damaged[0].reason}{more}")
    options = Options(tuple(key for key in asked.tuned.split(",") if key), asked.baseline, asked.with_paper)
    if asked.rows is None:
        print_table(runs, asked.format, options=options)
    else:
        print_pivot(runs, asked.rows, asked.columns, asked.format, options)
    if damaged:
        print(f"lrexp table: {len(damaged)} of {len(runs)} runs have damaged files", file=sys.stderr)
    return 2 if damaged else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="lrexp table", add_help=False, allow_abbrev=False)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--baseline", metavar="METHOD")
    parser.add_argument("--tuned", default="", metavar="KEY")
    parser.add_argument("--rows", metavar="KEY")
    parser.add_argument("--columns", metavar="KEY")
    parser.add_argument("--with-paper", action="store_true")
    parser.add_argument("--format", choices=FORMATS, default="rich")
    asked = parser.parse_args(arguments)
    if (asked.rows is None) != (asked.columns is None):
        parser.error("--rows and --columns go together")
    if asked.rows is not None and asked.with_paper:
        parser.error("--with-paper adds a column, which a table of --rows and --columns has no place for")
    return asked
