"""What a reader of a table must know to judge it, in sentences: seeds, selection, rates, tests, copied values."""

from __future__ import annotations

from collections.abc import Sequence

from lrexp.report.entry import Entry, Options
from lrexp.report.paper import COPIED
from lrexp.report.significance import ALPHA, FLIPS_FROM, OVER_ITEMS

SELECTION = {
    "last": "the weights after the last step",
    "best": "the weights that are best on data held out for it",
    "best_on_test": "the weights that are best on the reported split itself",
}


def sentences(entries: Sequence[Entry], options: Options) -> list[str]:
    """One sentence for each thing to say of `entries`; none of what does not apply."""
    if not any(entry.group.summary for entry in entries):
        return []
    found = [_figures(entries), _seeds(entries), _selection(entries), *_rates(entries, options)]
    found += [*_tests(entries, options), _reported(entries) if options.with_paper else ""]
    return [sentence for sentence in found if sentence]


def _figures(entries: Sequence[Entry]) -> str:
    splits = {entry.group.get("evaluated_on") for entry in entries} - {None}
    on = f"on {splits.pop()}: " if len(splits) == 1 else ""
    summaries = [entry.group.summary for entry in entries if entry.group.summary]
    said = []
    if any(summary.n > 1 for summary in summaries):
        said.append("mean ± half-width of the 95 % interval (Student's t over seeds)")
    if any(summary.n == 1 for summary in summaries):
        said.append("se: one seed's standard error over items")
    return f"{on}{'; '.join(said)}"


def _seeds(entries: Sequence[Entry]) -> str:
    found = [tuple(sorted(entry.group.values)) for entry in entries if entry.group.values]
    every = ", ".join(map(str, sorted({seed for seeds in found for seed in seeds})))
    if len(set(found)) == 1:
        return f"seeds: n = {len(found[0])} in each row ({every})"
    least, most = min(map(len, found)), max(map(len, found))
    return f"seeds: n = {least}{f' to {most}' * (most > least)} in each row (of {every})"


def _selection(entries: Sequence[Entry]) -> str:
    rules = dict.fromkeys(entry.group.identity.get("training.selection") for entry in entries)
    said = [SELECTION[rule] for rule in rules if rule in SELECTION]
    return f"selection: {', or '.join(said)}" if said else ""


def _rates(entries: Sequence[Entry], options: Options) -> list[str]:
    tried = {entry.rates_tried for entry in entries}
    several = "" if options.tuned or max(tried) == 1 else ", each in a row of its own"
    found = [f"learning rates: {' or '.join(map(str, sorted(tried)))} tried for each row{several}"]
    if options.tuned:
        found.append(f"best {', '.join(options.tuned)} of each row, by the mean on data that are held out for it")
    return found


def _tests(entries: Sequence[Entry], options: Options) -> list[str]:
    if options.baseline is None:
        return []
    alone = dict.fromkeys(
        f"{entry.group.part('dataset')} with {entry.group.part('model')}"
        for entry in entries
        if entry.group.summary and entry.comparison is None and entry.group.part("method") != options.baseline
    )
    missing = [f"no {options.baseline} to compare with on the same content: {'; '.join(alone)}"] if alone else []
    names = {entry.comparison.test.name for entry in entries if entry.comparison} - {None}
    if not names:
        why = "fewer than two seeds in common, or one and the same difference for all of them"
        return missing or [f"no test against {options.baseline}: {why}"]
    found = [
        f"tests: against {options.baseline}, two-sided, paired over the seeds that both have (Student's t; from "
        f"{FLIPS_FROM} on sign flips), with Holm's correction within a dataset, model and metric"
    ]
    if OVER_ITEMS in names:
        found.append(
            f"tests {OVER_ITEMS}: permutation of the right answers of two single checkpoints, "
            "which says nothing of how runs vary"
        )
    rule = f"corrected p ≤ {ALPHA} over seeds"
    found.append(
        f"bold: the best mean of a dataset, model and metric, if it is better than {options.baseline} with {rule}; "
        f"{options.baseline} itself, only if all others differ from it so"
    )
    return [*found, *missing]


def _reported(entries: Sequence[Entry]) -> str:
    sources = {entry.reported.source: None for entry in entries if entry.reported}
    if not sources:
        return "reported: no row runs an experiment that repeats a paper's"
    return f"reported: {COPIED}, not run here and in no test ({'; '.join(sources)})"
