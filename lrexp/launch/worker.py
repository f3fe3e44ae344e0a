"""The process of one run of a sweep: `python -m lrexp.launch.worker FOLDER [STEP]`, its frozen spec on standard input.

With STEP the run stands still after that step and the exit code is PAUSED: a tuning compares runs there.

Standard input stays open as long as the launcher lives. When it ends, the launcher is gone: the run writes a checkpoint
and stops, so that nothing goes on writing beside the next launch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from lrexp.engine.process import PAUSED
from lrexp.engine.team import number
from lrexp.spec.errors import Paused
from lrexp.spec.guard import guarded
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.yaml_text import END


def main(arguments: list[str]) -> int:
    """Reads the spec, watches the launcher, runs."""
    text = ""
    while not text.endswith(END):
        line = sys.stdin.readline()
        if not line:
            return 130  # the launcher was gone before it had said what to do
        text += line
    threading.Thread(target=_watch, daemon=True).start()
    if number():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # SLURM sends it to all processes; the run's first one acts on it
    spec, _ = RunSpec.parse(text.removesuffix(END) + "\n", "the spec")

    from lrexp.train import train

    try:
        train(spec, arguments[0], until=int(arguments[1]) if arguments[1:] else None)
    except Paused:
        return PAUSED
    return 0


def _watch() -> None:
    while sys.stdin.readline():
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    code = guarded(main, sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # as lrexp.cli.entry: native threads now and then abort a process that winds down the long way
