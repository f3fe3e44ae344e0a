"""Plans a run: what its training takes in memory and operations, before anything is downloaded or trained.

    lrexp plan model=llama_7b method=galore hardware.precision=bf16
    lrexp plan spec.yaml training.per_device_train_batch_size=8
    lrexp plan -m model=llama_7b method=full,lora,galore,sltrain      one table
    lrexp plan model=llama_1b --fits 24GB                             the largest batch for a budget

The first step is taken on shapes alone, on any machine, with the largest batch that the data can make: neither weights,
data nor a tokenizer are needed, of a model on the hub its config only. Counted are bytes of tensors at the moment when
training holds most: weights (parameters and buffers), gradients, the optimizer's state, what the method keeps beside
them, and as activations all else; peak is their sum. Preparation is the most that is there while the method prepares
the model, the base included, without the workspace of a decomposition; it is null for methods that look at data or
weights first. Ranks that data decide are taken as the method bounds them. What torch's allocator rounds up or leaves in
fragments, a CUDA context and what an operation takes inside itself come on top. A run on CUDA is planned by the CPU's
operations, but for attention; a compiled run as an eager one. flops are those of products, forward and backward, over
all micro-batches of a step.

A budget sets the size of a method, and the run is that of a spec with this size:

    lrexp plan -m method=lora,galore budget.memory=22GB               also budget.trainable_parameters=9e6

The rank (r), the share that is kept (keep_ratio) or the dimension is the largest whose plan stays within it; lora_alpha
and all else stay as they are. What a head trains counts. lrexp train takes budgets as well, with and without -m.

Options:
    -m, --multirun    a sweep, as lrexp train -m takes it: a row for each run
    --fits SIZE       the largest training.per_device_train_batch_size whose peak is at most SIZE (24GB, 80GiB)
    --format NAME     rich (default), md, csv or json
    --json            short for --format json: one object (with -m a list of them), memory in bytes
    --config-dir DIR  own choices beside lrexp's (docs/configs.md); as often as needed
    --help            this text
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from lrexp.commands.options import Parser
from lrexp.commands.words import compose_all, read, size_of
from lrexp.report import quantity
from lrexp.report.render import render
from lrexp.spec.budget import is_budget, read_bytes
from lrexp.spec.run_spec import RunSpec

LARGEST = "largest_per_device_train_batch_size"


def main(arguments: list[str]) -> int:
    """Plans and prints."""
    parser = Parser("plan")
    parser.add_argument("words", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--fits")
    parser.add_argument("--json", dest="format", action="store_const", const="json")
    options = parser.parse_intermixed_args(arguments)
    runs = compose_all(options.words)[0] if options.multirun else [(read(options.words)[0], "")]
    planned = [{"run": label, **found(spec, options)} for spec, label in runs]
    if options.format == "json":
        objects = planned if options.multirun else [{k: v for k, v in planned[0].items() if k != "run"}]
        print(json.dumps(objects if options.multirun else objects[0], indent=2))
    elif options.multirun:
        rows = [row(one, options.format) for one in planned]
        said = dict.fromkeys(sentence(one["assumed"], sizes=not options.fits) for one in planned)
        render(list(rows[0]), rows, options.format, "\n".join(said))
    else:
        show(planned[0], options.format)
    return 0


def found(spec: RunSpec, options: Namespace) -> dict[str, Any]:
    """The plan of a spec; with a budget the size that it sets, with --fits the batch: null where not even one fits."""
    from lrexp.plan.fits import largest
    from lrexp.plan.plan import plan

    size = {"size": size_of(spec)} if any(map(is_budget, options.words)) else {}
    if options.fits is None:
        return {**asdict(plan(spec)), **size}
    batch, fitting = largest(spec, read_bytes(options.fits, f"--fits {options.fits}"))
    return {**asdict(fitting), **size, LARGEST: batch or None}


def row(plan: dict[str, Any], format: str) -> dict[str, Any]:
    """A line of the table of several runs: bytes for a program, humane units for a person."""
    counts = {name: plan[name] for name in ("trainable_parameters", "flops_per_step")}
    figures = {**plan["memory"], **counts}
    if format != "csv":
        figures = {name: quantity.memory(value) for name, value in plan["memory"].items()}
        figures |= {name: quantity.count(value) for name, value in counts.items()}
    if LARGEST in plan:
        figures["largest_batch"] = plan[LARGEST] or "not even 1"
    figures |= {"size": plan["size"]} if "size" in plan else {}
    return {"run": plan["run"], **{name.replace("_", " "): value for name, value in figures.items()}}


def show(plan: dict[str, Any], format: str) -> None:
    """One plan, a quantity a line."""
    rows = [{"what": name, "value": value} for name, value in row(plan, format).items() if name != "run"]
    render(["what", "value"], rows, format, sentence(plan["assumed"]))


def sentence(assumed: dict[str, Any], sizes: bool = True) -> str:
    """What the figures hold for, in a line."""
    image = assumed["image_shape"]
    items = "images of " + " x ".join(map(str, image)) if image else f"sequences of {assumed['tokens']} tokens"
    count = f"{assumed['per_device_train_batch_size']} {items}" if sizes else items
    times = assumed["gradient_accumulation_steps"]
    micro = f", {times} micro-batches a step" * (times > 1)
    return f"planned for {count}{micro}, {assumed['precision']} on {assumed['device']}"
