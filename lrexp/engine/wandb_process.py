"""The process beside a run that mirrors its metrics.jsonl to wandb. Started by its path; imports nothing of ours.

The record itself is the queue: this process follows the file, so the run never waits for wandb, and its import,
threads, signal handlers and hooks stay out of the run. Every start sends the record from its first line under the same
id, which replaces what wandb had of the run: after resumes and replays there is one run with each step once.

Standard input brings two lines of JSON: the order (see `tracking.order`), and at the end of the run its summary and
exit code. When the input ends, the run is gone, and this process goes with it. Standard output takes reports:
{"ready": "online", "place": URL}, then {"done": number of lines} or {"failed": reason}.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EVERY = 1.0  # seconds between two looks at the record
OURS = ("DIR", "RUN_ID", "RESUME", "NAME", "PROJECT", "RUN_GROUP", "JOB_TYPE", "SWEEP_ID", "SERVICE")  # WANDB_...
SETTINGS = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,  # would describe this process, not the run
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
Report = Callable[[dict[str, Any]], None]


def main() -> None:
    """Reads the order, mirrors, reports, and ends at once: wandb's own exit hooks can wait for a dead server."""
    os.nice(5)
    orders, report = _channels()
    order = json.loads(orders.readline())
    ends: queue.Queue[dict[str, Any]] = queue.Queue()
    ended = threading.Event()

    def listen() -> None:
        line = orders.readline()
        if not line:
            os._exit(1)
        ends.put(json.loads(line))
        ended.set()
        orders.readline()
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    try:
        report({"done": mirror(order, ended, ends, report)})
    except BaseException as error:  # whatever wandb raises ends the mirror, never the run
        report({"failed": _reason(error)})
    os._exit(0)


def mirror(order: dict[str, Any], ended: threading.Event, ends: queue.Queue[dict[str, Any]], report: Report) -> int:
    """Sends the record's lines until the end is asked for, then summary and exit code; returns the number of lines."""
    _set_environment(order)
    _drop_earlier(Path(order["folder"]) / "wandb", order["id"])
    run = _start(order)
    offline = run.settings.mode != "online"
    place = Path(run.settings.sync_dir)
    report({"ready": run.settings.mode, "place": str(place) if offline else run.url or ""})
    lines = 0
    for step, values in follow(Path(order["record"]), ended):
        run.log(values, step=step)
        lines += 1
    end = ends.get()
    run.summary.update(end["summary"])
    run.finish(exit_code=end["exit_code"])
    if not offline:
        _drop_copies(place)
    return lines


def follow(record: Path, ended: threading.Event) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and numbers of each whole line as it is written, until `ended` is set and all is read. Null becomes NaN."""
    done = 0
    while True:
        last = ended.is_set()  # asked before the file is read: what is written before the end is seen
        try:
            with record.open("rb") as file:
                file.seek(done)
                found = file.read()
        except FileNotFoundError:
            found = b""
        whole = found[: found.rfind(b"\n") + 1]
        done += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # a line that a kill has torn
                values = json.loads(line)
                yield (
                    int(values.pop("step")),
                    {name: float("nan") if value is None else value for name, value in values.items()},
                )
        if last:
            return
        ended.wait(EVERY)


def _channels() -> tuple[Any, Report]:
    """Both ends of the talk with the run, out of reach of all that wandb starts: it finds the null device instead."""
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def report(words: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            print(json.dumps(words), file=reports, flush=True)

    return orders, report


def _set_environment(order: dict[str, Any]) -> None:
    """What a person set for another run must not lead this one astray; key, server, entity and mode stay theirs."""
    for name in OURS:
        os.environ.pop(f"WANDB_{name}", None)
    os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_CONSOLE": "off"}
    os.environ.setdefault("WANDB_CACHE_DIR", str(Path(order["folder"]) / "wandb" / "cache"))
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(order["folder"]) / "wandb" / "cache"))


def _start(order: dict[str, Any]) -> Any:
    """Starts the run in wandb. Without login it is an offline one."""
    import wandb
    from wandb.errors import UsageError

    known = wandb.Settings.model_fields
    settings = {name: value for name, value in SETTINGS.items() if name in known}

    def init(mode: Any) -> Any:
        return wandb.init(
            project=order["project"], id=order["id"], name=order["name"], group=order["group"],
            job_type=order["job_type"], config=order["config"], dir=order["folder"], mode=mode,
            settings=wandb.Settings(**settings, init_timeout=order["init_timeout"]),
        )  # fmt: skip

    if order["offline"]:
        return init("offline")
    try:
        return init(None)
    except UsageError as error:
        words = str(error).lower().replace("_", " ")
        if "api key" in words and "configured" in words:
            return init("offline")
        raise


def _drop_earlier(place: Path, run_id: str) -> None:
    """Removes what wandb wrote at earlier starts of this run: each start begins with the record's first line."""
    for left in [*place.glob(f"run-*-{run_id}"), *place.glob(f"offline-run-*-{run_id}"), place / "cache"]:
        shutil.rmtree(left, ignore_errors=True)


def _drop_copies(place: Path) -> None:
    """Removes wandb's own copy of a run that the server has whole, and the folder around it if it is empty then."""
    import wandb

    wandb.teardown()
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(place.parent / "cache", ignore_errors=True)
    for link in place.parent.iterdir():
        if link.is_symlink() and not link.exists():
            link.unlink()
    with contextlib.suppress(OSError):
        place.parent.rmdir()


def _reason(error: BaseException) -> str:
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "wandb":
        return "wandb is not installed here (pip install wandb)"
    text = str(error).strip().split("\n")[0]
    if not text or text == "<no message>":
        return f"{type(error).__name__}, no reason given (wandb/debug-internal.log may tell)"
    return text.rstrip(".")


if __name__ == "__main__":
    main()
