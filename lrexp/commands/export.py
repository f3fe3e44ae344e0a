"""lrexp export RUN --to peft|merged [--rank R] --out DIR [KEY=VALUE ...]

Writes what the finished run in the folder RUN has trained for other programs:

    --to peft      the adapter in PEFT's format, as the difference to the original base model, its head included:
                   base = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=N)
                   PeftModel.from_pretrained(base, DIR)
                   for a language model: base = AutoModelForCausalLM.from_pretrained(BASE)
    --rank R       with peft, for what is no LoRA (full, galore, said ...) or has a higher rank: the change of every
                   matrix of the base is cut to rank R, the best approximation there is; changed norms and biases go
                   along as they are. What that loses is printed and recorded, as the relative Frobenius norm of what
                   is left out, of all matrices and of the worst, beside the largest logit difference: look at them
    --to merged    a plain model and its tokenizer as save_pretrained writes them, merged in float32 or better

On a few batches of the run's data the logits of the export are compared with those of the trained model; the largest
difference is printed and stands in DIR/lrexp_export.json, with the run's spec. For a run in bf16 there are two: of the
export alone (both sides computed in float32), and against the model as it was trained; for peft both include that the
run's base was rounded to bf16, which the original is not. model.path, model.tokenizer_path and dataset.path say where
the model, its tokenizer and the data lie now. lrexp eval takes a merged folder. Nothing is left in DIR when an
export fails.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.commands.options import Parser
from lrexp.spec import compose
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from lrexp.engine.export import Export

MOVED = ("model.path", "model.tokenizer_path", "dataset.path")


def main(arguments: list[str]) -> int:
    """Exports one run and says how exact the export is."""
    options = _parse(arguments)
    export, about = exported(options.run, options.to, options.out, options.overrides, options.rank)
    items = f"{about['compared_on']['items']} items of {about['compared_on']['split']}"
    print(f"{options.to} export of {about['name']}, {about['method']}, seed {about['seed']}: {options.out}")
    if export.truncated is not None:
        cut = export.truncated
        print(
            f"rank {cut['rank']} loses {cut['relative_error']:.2g} of the change of {cut['layers']} matrices (relative "
            f"Frobenius norm); the worst, {cut['worst_layer']}, {cut['worst_relative_error']:.2g}"
        )
    print(f"largest logit difference {export.largest_logit_difference:.2g} on {items}")
    if about["spec"]["hardware"]["precision"].startswith("bf16"):
        print(f"  to the model as it was trained, in bf16: {export.largest_logit_difference_to_run:.2g}")
    for mark in about["marks"]:
        print(f"  {mark}")
    return 0


def exported(
    folder: Path, to: str, out: Path, overrides: list[str], rank: int | None = None
) -> tuple[Export, dict[str, Any]]:
    """Writes the export; returns it and its record. Raises InputError, and then nothing is left at `out`."""
    for override in overrides:
        if override.partition("=")[0] not in MOVED:
            known = f"{', '.join(MOVED[:-1])} and {MOVED[-1]}"
            raise InputError(f"export: {override}: only {known} can be given, where they lie elsewhere now.")
    if rank is not None and (rank < 1 or to != "peft"):
        raise InputError(f"export: --rank {rank}: it is at least 1, and goes with --to peft.")
    from lrexp.engine import export, peft_export, reload
    from lrexp.engine import finished as folders
    from lrexp.engine.determinism import settled
    from lrexp.engine.identify import identify
    from lrexp.engine.precision import DTYPES
    from lrexp.train import make_context, read_data

    export.refuse_occupied(out)
    finished = folders.read(folder)
    spec, _ = compose.override(replace(finished.spec, init_from=None), overrides)
    run = identify(spec.on("cpu"), finished.facts)
    stored = reload.stored(finished, run)
    with settled(run):
        task = read_data(run)
        context = replace(make_context(run, task), dtype=DTYPES[finished.spec.hardware.precision])
        model = reload.rebuild(run, task, stored, context)
        if to == "merged":
            made = export.merged(run, task, model)
        elif rank is None:
            made = peft_export.exact(run, task, model)
        else:
            made = peft_export.truncated(run, task, model, rank)
    about = export.record(finished, run, task, to, made)
    export.write(out, made, about)
    return made, about


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("export", formats=False)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--to", choices=("peft", "merged"), required=True)
    parser.add_argument("--rank", type=int, metavar="R")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser.parse_intermixed_args(arguments)
