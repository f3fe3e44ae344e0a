"""What SLURM is asked for: `--slurm KEY=VALUE` by the names of sbatch's own options, defaults from the specs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lrexp.launch.job import Job
from lrexp.spec.convert import clip, unknown
from lrexp.spec.errors import InputError

TIME = "4:00:00"  # a run that takes longer is requeued and goes on from its checkpoint
NOTICE = 120  # seconds between the signal and the end of the time, a quarter of it at most: a step and a checkpoint
OPTIONS = (
    "account", "begin", "clusters", "comment", "constraint", "cpus-per-task", "dependency", "exclude", "exclusive",
    "gpu-bind", "gpus", "gpus-per-node", "gpus-per-task", "gres", "hold", "licenses", "mail-type", "mail-user", "mem",
    "mem-per-cpu", "mem-per-gpu", "nice", "nodelist", "partition", "prefer", "priority", "qos", "reservation",
    "time", "time-min", "tmp", "wckey",
)  # fmt: skip
OURS = (
    "array", "error", "export", "job-name", "nodes", "no-requeue", "ntasks", "ntasks-per-node", "open-mode", "output",
    "requeue", "signal",
)  # fmt: skip
GPUS = ("gpus", "gpus-per-node", "gpus-per-task", "gres")
CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def read(words: Iterable[str]) -> dict[str, str]:
    """The options that were given, KEY=VALUE. Raises InputError for what sbatch does not know or lrexp sets itself."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key, value = key.strip().removeprefix("--").replace("_", "-"), value.strip()
        where = f"--slurm {clip(word)}"
        if key in OURS:
            raise InputError(f"{where}: lrexp sets {key} itself")
        if key not in OPTIONS:
            raise InputError(unknown(where, key, OPTIONS, "option of sbatch"))
        if not value or not equals or not value.isprintable():
            raise InputError(f"{where}: it reads KEY=VALUE, partition=gpu for instance")
        if key in found:
            raise InputError(f"{where}: {key} is given twice")
        found[key] = value
    minutes(found.get("time", TIME))
    return found


def minutes(time: str) -> int:
    """Minutes of a time as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises InputError."""
    match = CLOCK.fullmatch(time)
    if match is None:
        raise InputError(f"--slurm time={clip(time)}: it reads 90 (minutes), 4:00:00 or 2-12:00:00")
    days, *parts = (int(part) if part else 0 for part in match.groups())
    first, second, third = parts
    if match["days"] is not None:
        seconds = days * 86400 + first * 3600 + second * 60 + third
    elif match["third"] is not None:
        seconds = first * 3600 + second * 60 + third
    else:
        seconds = first * 60 + second
    if seconds < 60:
        raise InputError(f"--slurm time={clip(time)}: it is a minute at least")
    return -(-seconds // 60)


def parameters(jobs: list[Job], given: dict[str, str], name: str, most: int | None) -> dict[str, Any]:
    """What submitit is given for an array of the jobs, of which `most` run at a time (None: as many as SLURM lets)."""
    hardware = [job.spec.hardware for job in jobs]
    cpus = given.get("cpus-per-task", str(max(each.threads * each.processes for each in hardware)))
    asked: dict[str, Any] = {"requeue": True, "cpus-per-task": cpus}
    if any(each.device == "cuda" for each in hardware) and not any(key in given for key in GPUS):
        asked["gpus-per-node"] = max(each.processes for each in hardware)
    time = given.get("time", TIME)
    return {
        "job_name": name,
        "time": minutes(time),
        "signal_delay_s": min(NOTICE, minutes(time) * 15),
        "array_parallelism": most or len(jobs),
        "wckey": None,
        "setup": ["export SUBMITIT_PREEMPT_SIGNAL=USR1"],
        "srun_args": [f"--cpus-per-task={cpus}"],  # srun does not take it over from sbatch
        "additional_parameters": asked | {key: value for key, value in given.items() if key != "time"},
    }
