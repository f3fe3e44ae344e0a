"""lrexp table DIR... [--tuned KEY] [--format rich|md|csv|json]

Rows of the finished, failed and running runs in DIR, at any depth: a run is a folder with spec.yaml. Runs with the same
spec apart from the seed, the same data and the same weights of the base model make one row: mean, standard deviation
and 95 % interval (t over seeds) of the primary metric, trainable parameters, peak memory, step and training time. Keys
in which the rows differ are columns. Runs on other data are never pooled. csv and json give numbers, bytes, seconds.

--tuned KEY[,KEY] (training.learning_rate, say) shows of rows that differ in these keys alone the one with the best mean
on the split to select on, which is not the one that is reported: validation beside test; where validation is reported,
the part of train that training.selection=best holds out. A row without such a mean, because its runs failed or have not
finished, is left out where another of its kind has one.

Ends with 0, also where runs have failed; 2 when a DIR cannot be read or holds no run, or a run's files are damaged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from lrexp.report.collect import collect
from lrexp.report.render import FORMATS
from lrexp.report.table import print_table
from lrexp.spec.errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"table: {message}. See lrexp table --help")


def main(arguments: list[str]) -> int:
    """Runs the command: 0, or 2 where files of some run are damaged. Raises InputError if there is nothing to show."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    options = _parse(arguments)
    runs = collect(options.directories)
    damaged = [run for run in runs if run.status == "damaged"]
    if len(damaged) == len(runs):
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise InputError(f"{damaged[0].reason}{more}")
    print_table(runs, options.format, tuned_keys=[key for key in options.tuned.split(",") if key])
    if damaged:
        print(f"lrexp table: {len(damaged)} of {len(runs)} runs have damaged files", file=sys.stderr)
    return 2 if damaged else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="lrexp table", add_help=False, allow_abbrev=False)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--tuned", default="", metavar="KEY")
    parser.add_argument("--format", choices=FORMATS, default="rich")
    return parser.parse_args(arguments)
