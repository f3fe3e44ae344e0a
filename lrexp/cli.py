"""Reads the command word and hands over; turns errors into one or two lines and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import NoReturn

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two torch processes on two cores otherwise starve each other
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from lrexp import __version__
from lrexp.spec.convert import unknown
from lrexp.spec.errors import InputError
from lrexp.spec.guard import guarded

COMMANDS = {
    "train": "train one run, or go on with one",
    "plan": "memory and operations of a run before it begins, on any machine",
    "eval": "evaluate a finished run, or a merged export, on its own or another data set",
    "export": "a finished run as a PEFT adapter or as a plain folder of transformers",
    "list": "what can be chosen: methods, models, datasets, ...",
    "show": "one choice with every key, its type, default, paper value and meaning",
    "status": "where the runs of a sweep stand: queued, running, finished, failed, lost; with job and node",
    "table": "rows of finished, failed and running runs, grouped over seeds",
    "plot": "learning curves, quality against cost, sensitivity to the learning rate",
    "report": "one HTML file on runs: summary, comparison, pictures, failures, settings",
    "replicate": "try published claims at a small scale, and judge them by intervals",
    "sync": "send a run's record to wandb, as often as you like",
    "verify": "replay golden cases: the authors' numbers against ours",
    "diff": "in which keys two runs differ, and what came of it",
    "fetch": "download what a run needs into the local caches",
    "doctor": "what is here: versions, devices, memory, cached models and data, wandb",
}
CONFIG_DIR = "--config-dir"
HELP = """\
lrexp runs low-rank training experiments.

    lrexp train                                 LoRA on the embedded default: offline, half a minute on two cores
    lrexp train method=pissa training.max_steps=100 seed=2
    lrexp table outputs

Commands:
{commands}

Each has its own help: lrexp train --help. Also: --version, --help.
--config-dir DIR, with any command: own choices, DIR/method/x.yaml for method=x, beside lrexp's (docs/configs.md).
Exit codes: 0 done; 1 the run failed or a replay missed; 2 the input is wrong; 130 interrupted (the same line goes on).
LREXP_DEBUG=1 shows tracebacks and the libraries' warnings.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line (default: the process's own) and returns its exit code."""
    return guarded(_dispatch, sys.argv[1:] if arguments is None else arguments)


def entry() -> NoReturn:
    """The process's own door: `main`, then out at once.

    All is written by then. Native threads of the data libraries now and then abort a process that winds down the long
    way, and would turn its exit code into another.
    """
    code = main()
    with contextlib.suppress(OSError):  # a terminal that has been closed
        sys.stderr.flush()
    os._exit(code)


def _dispatch(arguments: list[str]) -> int:
    _survive_odd_terminals()
    arguments, folders = config_dirs(arguments)
    word, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if word == "help":
        word, rest = (rest[0], ["--help"]) if rest else ("--help", [])
    if word in ("--help", "-h"):
        print(HELP.format(commands="\n".join(f"    {name:<11}{line}" for name, line in COMMANDS.items())), end="")
        return 0
    if word == "--version":
        print(f"lrexp {__version__}")
        return 0
    if word not in COMMANDS:
        raise InputError(unknown(word, word, COMMANDS, "command", "Commands"))
    command = importlib.import_module(f"lrexp.commands.{word}")
    if {"--help", "-h"} & set(rest):
        print((command.__doc__ or "").strip())
        return 0
    from lrexp.spec.choices import beside

    with beside(folders):
        return command.main(rest)


def config_dirs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--config-dir DIR`, which every command takes, and the folders. Raises InputError."""
    rest, folders = [], []
    words = iter(arguments)
    for word in words:
        option, equals, folder = word.partition("=")
        if option != CONFIG_DIR:
            rest.append(word)
            continue
        folder = folder if equals else next(words, "")
        if not folder or (folder.startswith("-") and not equals):
            raise InputError(f"{CONFIG_DIR}: a folder is missing after it; write {CONFIG_DIR} DIR")
        folders.append(folder)
    return rest, folders


def _survive_odd_terminals() -> None:
    """A character that the terminal's encoding lacks becomes a question mark, not an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
