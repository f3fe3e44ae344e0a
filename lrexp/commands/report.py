"""lrexp report DIR... [-o report.html] [--baseline METHOD] [--tuned KEY] [--title TEXT]

Writes one HTML file on the runs in DIR, at any depth: summary, comparison, pictures, failed runs and why, settings, and
the list of runs with their folders and hashes. The file needs no network and runs no scripts: it can be sent by mail.

--baseline METHOD and --tuned KEY[,KEY] are those of lrexp table. -o FILE ends with .html (default report.html); a file
of that name is replaced. Pictures need matplotlib: pip install "lrexp[plot]"; without it they are left out.

Ends with 0; 2 when there is nothing to report, or a run's files are damaged (they are listed).
"""

from __future__ import annotations

import sys
from pathlib import Path

from lrexp.commands.options import Parser
from lrexp.report.collect import collect
from lrexp.report.entry import Options
from lrexp.report.page import page
from lrexp.spec.errors import InputError


def main(arguments: list[str]) -> int:
    """Runs the command: 0, or 2 where files of some run are damaged."""
    options = parser().parse_args(arguments)
    if options.out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"report: -o {options.out}: a report ends with .html")
    runs = collect(options.directories)
    damaged = [run for run in runs if run.status == "damaged"]
    if len(damaged) == len(runs):
        raise InputError(damaged[0].reason or "report: no run can be read")
    title = options.title or f"Runs in {', '.join(str(directory) for directory in options.directories)}"
    tuned = tuple(key for key in options.tuned.split(",") if key)
    text, notes = page(runs, title, Options(tuned, options.baseline))
    try:
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"report: -o {options.out}: cannot be written ({error.strerror})") from error
    print(options.out)
    for note in dict.fromkeys(notes):
        print(f"lrexp report: left out, {note}", file=sys.stderr)
    if damaged:
        print(f"lrexp report: {len(damaged)} of {len(runs)} runs have damaged files", file=sys.stderr)
    return 2 if damaged else 0


def parser() -> Parser:
    """The options of `report`."""
    found = Parser("report", formats=False)
    found.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    found.add_argument("-o", dest="out", type=Path, default=Path("report.html"), metavar="FILE")
    found.add_argument("--baseline", metavar="METHOD")
    found.add_argument("--tuned", default="", metavar="KEY")
    found.add_argument("--title", metavar="TEXT")
    return found
