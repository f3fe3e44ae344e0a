"""What SLURM is asked for, and what squeue's answer means, with stand-ins for both."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lrexp.launch import record, slurm
from lrexp.launch.cluster import elsewhere
from lrexp.launch.job import Job
from lrexp.launch.record import Entry, Submission
from lrexp.launch.scheduler import Element, living
from lrexp.methods.catalog import families
from lrexp.spec import compose
from lrexp.spec.errors import InputError


def job(tiny: list[str], *words: str) -> Job:
    keys = {word.partition("=")[0] for word in words}
    spec, _ = compose.compose([*(w for w in tiny if w.partition("=")[0] not in keys), *words], families())
    return Job(spec, Path("none"), "a run", "0123456789", 6)


def stand_in(place: Path, name: str, script: str) -> None:
    (place / name).write_text(f"#!/bin/sh\n{script}\n")
    (place / name).chmod(0o755)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["partitoin=gpu"], "Did you mean 'partition'?"),
        (["partition"], "reads KEY=VALUE"),
        (["partition="], "reads KEY=VALUE"),
        (["partition=a", "partition=b"], "given twice"),
        (["comment=a\nrm -r x"], "reads KEY=VALUE"),
        (["array=0-9"], "lrexp sets array itself"),
        (["job_name=mine"], "lrexp sets job-name itself"),
        (["time=soon"], "it reads 90"),
        (["time=0"], "a minute at least"),
    ],
)
def test_a_wrong_option_is_answered_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        slurm.read(words)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("1:30", 2), ("4:00:00", 240), ("0:30:01", 31), ("2-12", 3600), ("1-0:30", 1470), ("1-0:0:59", 1441)],
)
def test_times_are_those_of_sbatch(time: str, minutes: int) -> None:
    assert slurm.minutes(time) == minutes


def test_cpus_and_gpus_are_those_of_the_specs(tiny: list[str]) -> None:
    one = job(tiny, "hardware.threads=4", "hardware.processes=2")
    found = slurm.parameters([job(tiny), one], {}, "lrexp-x", None)
    assert found["additional_parameters"] == {"requeue": True, "cpus-per-task": "8"}
    assert (found["time"], found["array_parallelism"], found["srun_args"]) == (240, 2, ["--cpus-per-task=8"])
    on_gpu = replace(one, spec=one.spec.on("cuda"))
    assert slurm.parameters([on_gpu], {}, "x", 3)["additional_parameters"]["gpus-per-node"] == 2
    asked = slurm.read(["gres=gpu:a100:2", "cpus_per_task=3", "time=30", "mem=8G"])
    found = slurm.parameters([on_gpu], asked, "x", 3)
    expected = {"requeue": True, "cpus-per-task": "3", "gres": "gpu:a100:2", "mem": "8G"}
    assert (found["additional_parameters"], found["time"], found["array_parallelism"]) == (expected, 30, 3)


def test_submitit_writes_the_script_that_is_meant(tiny: list[str], tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    text = submitit.slurm.slurm._make_sbatch_string(
        command="a command", folder=tmp_path, map_count=3, **slurm.parameters([job(tiny)], {"mem": "8G"}, "lrexp-x", 2)
    )
    lines = {shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH")}
    expected = {"--array=0-2%2", "--time=240", "--mem=8G", "--requeue", "--job-name=lrexp-x", "--cpus-per-task=1"}
    assert expected <= lines and not [line for line in lines if line.startswith("--wckey")]
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR1" in text and "--cpus-per-task=1 a command" in text


def test_a_cluster_has_other_devices() -> None:
    assert elsewhere("cuda").type == "cuda"
    with pytest.raises(InputError, match="hardware=cuda or hardware=cpu"):
        elsewhere("auto")


def submission(root: Path, launcher: str = "slurm") -> Submission:
    runs = [Entry(f"lora-{i}", f"seed={i}", 6, i) for i in range(3)]
    return record.begin(root, launcher, runs, ["a: 1\n"] * 3)


def test_what_squeue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = submission(tmp_path / "a"), submission(tmp_path / "b")
    lines = [f"{ours.name}|7_0|0|RUNNING|n1", f"{ours.name}|7_1|1|PENDING|", f"{ours.name}|7_2|2|COMPLETING|n1"]
    lines.append(f"{other.name}|8|N/A|REQUEUED|")
    stand_in(tmp_path, "squeue", f'test "$4" = {ours.name},{other.name} && printf "%s\\n" {" ".join(map(repr, lines))}')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert living([ours, other]) == {
        ours.place: {0: Element("7_0", "n1", True), 1: Element("7_1", "", False)},
        other.place: {0: Element("8", "", False)},
    }


def test_a_scheduler_that_does_not_answer_is_no_scheduler_without_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = submission(tmp_path)
    stand_in(tmp_path, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(InputError, match=r"squeue does not answer: .*Unable to contact"):
        living([ours])
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="squeue is not here"):
        living([ours])


def test_a_process_of_another_is_none_of_ours(tmp_path: Path) -> None:
    ours = submission(tmp_path, "submitit-local").with_jobs([str(os.getppid())])  # alive, and no controller
    assert living([ours]) == {ours.place: {}}
    assert record.read(ours.place) == ours


def test_a_job_on_another_machine_is_taken_to_be_there(tmp_path: Path) -> None:
    ours = replace(submission(tmp_path, "submitit-local"), host="far", jobs=("123",))
    assert living([ours]) == {ours.place: {0: Element("123", "far", True)}}
