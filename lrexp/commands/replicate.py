"""lrexp replicate CLAIM... [--jobs N] [--format rich|md|csv|json]

Tries published claims at a scale of two cores: runs both sides of a claim over its seeds and judges by the 95 %
interval of the differences paired by seed. CLAIM is one of `lrexp replicate --list`, or a YAML file like those of
conf/claim.

    seen here                    the interval lies where the claim says
    not seen at this scale       it holds both
    contradicted at this scale   it lies on the other side

Each claim says what was scaled down and what that may break; a verdict is about this setting. Runs lie in
outputs/claims, and one that two claims need is run once; the same line goes on after a kill, and judges again without
running anything twice.

Options:
    --list         the claims, their papers and what they say
    --jobs N       runs at a time (default: as many as fit the cores)
    --dry-run      list the runs, start none
    --format NAME  rich (default), md, csv or json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrexp.commands.options import Parser
from lrexp.commands.sweep import SweepOptions
from lrexp.commands.words import compose_all
from lrexp.report.render import render
from lrexp.spec import claim as claims
from lrexp.spec.claim import Claim
from lrexp.spec.errors import InputError
from lrexp.spec.tuning import split

ROOT = str(Path("outputs") / "claims")
COLUMNS = ("claim", "metric", "first", "second", "difference", "95 % interval", "pairs", "verdict")


def main(arguments: list[str]) -> int:
    """Runs what is missing and prints the verdicts; 0 whatever they are, 1 if a run has failed."""
    options = parser().parse_args(arguments)
    if options.list:
        rows = [vars(claims.read(name)) for name in claims.names()]
        render(["name", "paper", "where", "claim"], rows, options.format)
        return 0
    if not options.claims:
        raise InputError(f"replicate: which claim? Known: {', '.join(claims.names())}")
    found = [claims.read(word) for word in options.claims]
    how = SweepOptions("pool", options.jobs, options.dry_run, format=options.format)
    rows: list[dict[str, Any]] = []
    has_failed = False
    for claim in found:
        ended = run(claim, how)
        if options.dry_run:
            continue
        has_failed |= any(run.status != "finished" for runs in ended.values() for run in runs)
        rows += judged(claim, ended)
    if not options.dry_run:
        render(COLUMNS, rows, options.format)
        if options.format == "rich":
            for claim in found:
                print(f"\n{claim.name}: {claim.claim} ({claim.paper}, {claim.where})\nScaled: {claim.scaled}")
    return int(has_failed)


def parser() -> Parser:
    """The options of `replicate`."""
    options = Parser("replicate")
    options.add_argument("claims", nargs="*", metavar="CLAIM")
    options.add_argument("--list", action="store_true")
    options.add_argument("--dry-run", action="store_true")
    options.add_argument("--jobs", type=int)
    return options


def run(claim: Claim, how: SweepOptions) -> dict[str, list[Any]]:
    """The runs of each side, at their end; finished ones are not run again."""
    from lrexp.commands.tuning import families_of, tuned_runs
    from lrexp.launch.job import jobs
    from lrexp.launch.sweep import launch
    from lrexp.report.collect import read_run

    folders: dict[str, list[Path]] = {}
    plain = []
    for side in claim.sides:
        tuning, words = split(claim.words(side))
        if tuning is not None and how.dry_run:
            families = families_of([f"output_dir={ROOT}", *words], tuning)[0]
            plain += [trial.job for family in families if family.ask() for trial in family.trials]
            continue
        if tuning is not None:
            folders[side] = [job.folder for job in tuned_runs([f"output_dir={ROOT}", *words], tuning, how)]
            continue
        found = jobs([(spec, f"{side} {label}") for spec, label in compose_all(words)[0]], ROOT)
        folders[side] = [job.folder for job in found]
        plain += found
    if how.dry_run:
        rows = [{"run": job.label, "folder": str(job.folder), "state": job.look()} for job in plain]
        render(["run", "folder", "state"], rows, how.format, title=f"{claim.name}: {len(rows)} runs")
        return {}
    launch(list({job.folder: job for job in plain}.values()), how.launch())
    return {side: [read_run(folder) for folder in there] for side, there in folders.items()}


def judged(claim: Claim, sides: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """A row for each check, and one for the whole where there are several."""
    from lrexp.report.verdict import judge, overall

    findings = [judge(check, sides) for check in claim.checks]
    rows = [
        {
            "claim": claim.name,
            "metric": finding.check.metric,
            "first": f"{finding.check.first} {finding.first:.5g}",
            "second": f"{finding.check.second} {finding.second:.5g}",
            "difference": f"{finding.difference:.3g}{' (ratio)' if finding.check.relation == 'less' else ''}",
            "95 % interval": "{:.3g} to {:.3g}".format(*finding.interval),
            "pairs": finding.pairs,
            "verdict": finding.verdict,
        }
        for finding in findings
    ]
    if len(rows) > 1:
        rows.append({"claim": claim.name, "metric": "all of it", "verdict": overall(findings)})
    return rows
