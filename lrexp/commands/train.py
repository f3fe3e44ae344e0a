"""Trains one run, or goes on with one.

    lrexp train                                       the embedded default: LoRA on a small encoder, offline
    lrexp train method=pissa model=roberta dataset=mrpc training.learning_rate=4e-4
    lrexp train spec.yaml                             a frozen spec, from a run's folder or out of a paper
    lrexp train spec.yaml seed=2 output_dir=there     the same with other values, into a folder of your choice
    lrexp train dataset=mrpc init_from=RUN            from the weights of a finished run of the same method and base
    lrexp train method=lora init_from=DIR             from an adapter in PEFT's format; method=dora, adalora too

Give the same line again after a kill or a signal: the run goes on from its last checkpoint and ends with the same
bytes. A run that has failed is tried again from there. A finished run prints its row and does nothing.

    lrexp train -m method=full,lora,pissa seed=1,2,3  a sweep: comma lists, range(1,4), choice(a,b), glob(a*)

A sweep composes and freezes all its runs before the first starts, and each is a process of its own. The same line skips
what is finished and goes on with the rest; output_dir=DIR is the folder that its runs' folders lie in.

    lrexp train -m seed=1,2,3 + method=lora,pissa + method=peft method.peft_type=LOHA method.config.r=4

Parts of one sweep: each + begins one, whose words are its own; what stands before the first + holds for all.

    lrexp train -m method=lora,pissa seed=1,2,3 tune=learning_rate

A tuning: four rates of each method's own range (tune.trials=N, tune.range=[LOW,HIGH]) run at the first seed; after a
quarter and a half of the steps the better half goes on (tune.halving=N: one in N), measured on a split held out of
train; then all seeds run with the best rate. tune=KEY tunes any other key, tune.sampler=tpe lets Optuna ask. The same
line goes on after a kill, and ends with the bytes of runs that were never paused.

    lrexp train -m method=lora,pissa,said budget.trainable_parameters=9e4

A budget of parameters or memory (budget.memory=22GB) sets each method's size, a rank for instance, before anything is
trained: the spec holds the solved value, and lrexp plan says what it will take.

    lrexp train -m --launcher slurm --slurm partition=gpu method=lora,pissa seed=1,2,3 hardware=cuda output_dir=sweep

A job array of SLURM (pip install "lrexp[cluster]"): the specs are frozen in sweep/.launch, so the shell may be closed
and files may be edited. lrexp status sweep shows where the runs stand. Before its time is over a run writes a
checkpoint, and its job is requeued. The same line submits what was lost, and never what is queued or running. CPUs and
GPUs are those of hardware.threads, hardware.processes and hardware.device; time is four hours if you give none.

Options:
    --again           run a finished spec once more, into a new folder beside the first (DIR-2, then DIR-3); a repeat
                      that was interrupted or has failed is gone on with first
    -m, --multirun    a sweep
    --launcher NAME   serial (default); pool: several runs at a time, each with its GPU or its hardware.threads; slurm:
                      one job array, then leave; submitit-local: as a pool, in processes that stay, then leave
    --jobs N          runs at a time; default: one per GPU, or as many as fit the cores; for slurm as many as it lets
    --slurm KEY=VALUE what sbatch is asked for, as often as needed: partition=gpu, time=8:00:00, account=me, mem=32G
    --dry-run         list the runs of a sweep, start none
    --fail-fast       end a sweep at its first failure; running runs write checkpoints
    --retry           try failed runs of a sweep again
    --format NAME     rich (default), md, csv or json: how the table at the end is written
    --config-dir DIR  own choices beside lrexp's: DIR/method/x.yaml is method=x (docs/configs.md); as often as needed
    --help            this text

What can be chosen: lrexp list. What a choice holds: lrexp show method=lora.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from lrexp.commands.options import Parser
from lrexp.commands.sweep import LAUNCHERS, SweepOptions, sweep
from lrexp.commands.words import read
from lrexp.engine.stop import at_once
from lrexp.spec.errors import InputError

SWEEP_OPTIONS = ("launcher", "jobs", "dry_run", "fail_fast", "retry", "slurm")  # what means nothing without -m


def main(arguments: list[str]) -> int:
    """Reads the line, runs, prints the final table."""
    options = parser().parse_intermixed_args(arguments)
    with at_once():
        if options.multirun or any(word.startswith(("tune=", "tune.")) for word in options.words):
            return sweep(options.words, SweepOptions(**{n: getattr(options, n) for n in (*SWEEP_OPTIONS, "format")}))
        refuse_sweep_options(options)
        spec, output_dir, then = read(options.words)

        from lrexp.train import train

        result, folder = train(spec, output_dir, options.again, then)
    if result:  # it is empty in a process beside the run's first
        show(result, folder, options.format)
    return 0


def show(result: dict[str, Any], folder: Path, format: str) -> None:
    """The run's figures for a person, or its row of `lrexp table` for a program."""
    from lrexp.report.collect import read_run
    from lrexp.report.row import final_table
    from lrexp.report.table import print_table

    if format == "rich":
        final_table(result, folder)
    else:
        print_table([read_run(folder)], format)


def parser() -> Parser:
    """The options of `train`."""
    options = Parser("train")
    options.add_argument("words", nargs="*")
    options.add_argument("--again", action="store_true")
    options.add_argument("-m", "--multirun", action="store_true")
    options.add_argument("--launcher", choices=LAUNCHERS, default="serial")
    options.add_argument("--jobs", type=int)
    options.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE")
    for name in ("--dry-run", "--fail-fast", "--retry"):
        options.add_argument(name, action="store_true")
    return options


def refuse_sweep_options(options: Namespace) -> None:
    """Raises InputError for an option that means nothing without -m."""
    default = parser().parse_args([])
    for name in SWEEP_OPTIONS:
        if getattr(options, name) != getattr(default, name):
            raise InputError(f"train: --{name.replace('_', '-')} belongs to a sweep; add -m")
