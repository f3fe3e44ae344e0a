"""A report on runs as one HTML file that needs nothing else: no network, no scripts; pictures are inline SVG."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lrexp.report import curves, pareto, rates
from lrexp.report.collect import Run
from lrexp.report.entry import Options
from lrexp.report.figure import Drawing, inline_svg
from lrexp.report.group import Group, group
from lrexp.report.html import fragment
from lrexp.report.labels import ordered
from lrexp.report.quantity import duration
from lrexp.report.render import plain
from lrexp.report.table import print_table
from lrexp.report.tuned import tuned
from lrexp.spec.errors import InputError

OWN = ("method.name", "model.name", "dataset.name")  # keys that the tables name anyhow
PICTURES: tuple[tuple[str, Callable[[list[Group]], Drawing]], ...] = (
    ("Learning curves", lambda groups: curves.draw(groups, None)),
    ("Quality against trained parameters", lambda groups: pareto.draw(groups, "trainable_parameters", None)),
    ("Quality against training time", lambda groups: pareto.draw(groups, "train_seconds", None)),
    ("Quality against peak memory", lambda groups: pareto.draw(groups, "peak_memory_bytes", None)),
)
STYLE = """\
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p.lead { color: #555; margin: 0 0 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #555; padding-bottom: .5rem; font-size: .85rem; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e5e5; }
.tight td { white-space: nowrap; }
th { border-bottom: 2px solid #1a1a1a; white-space: nowrap; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption, ul.notes { color: #555; font-size: .85rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
code { font: .85em ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print { .wide { overflow: visible; } details > * { display: block; } }
"""


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it."""

    title: str
    body: str


def page(runs: Sequence[Run], title: str, options: Options) -> tuple[str, list[str]]:
    """The whole file, and what the person who asked for it should know.

    Raises InputError where `options` name what the runs do not have.
    """
    sound = [run for run in runs if run.status != "damaged"]
    groups = group(sound)
    shown = ordered(tuned(groups, list(options.tuned)) if options.tuned else groups)
    pictures, notes = _pictures(shown, groups, options)
    sections = [
        Section("Summary", _summary(runs)),
        Section("Comparison", _comparison(sound, options)),
        *pictures,
        *_failed(runs),
        Section("Settings", _settings(groups)),
        Section("Runs", _listed(runs)),
    ]
    body = "".join(f"<section>\n<h2>{escape(each.title)}</h2>\n{each.body}</section>\n" for each in sections)
    lead = "Made by <code>lrexp report</code> from the folders of the runs listed below."
    return _document(title, f'<h1>{escape(title)}</h1>\n<p class="lead">{lead}</p>\n{body}'), notes


def _document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _summary(runs: Sequence[Run]) -> str:
    """How many runs of what, how they ended, on which machine and with which versions."""
    results = [run.result for run in runs if run.result is not None]
    ended = Counter(run.status for run in runs)
    versions = _distinct(
        ", ".join(f"{name} {result['versions'][name]}" for name in ("lrexp", "torch", "transformers", "python")
                  if name in result["versions"])
        for result in results
    )  # fmt: skip
    machines = _distinct(_machine(result["hardware"]) for result in results)
    seconds = sum(result["costs"]["train_seconds"] or 0 for result in results)
    facts = {
        "runs": ", ".join(f"{count} {status}" for status, count in ended.most_common()),
        "methods": ", ".join(_distinct(_name(run, "method") for run in runs)),
        "models": ", ".join(_distinct(_name(run, "model") for run in runs)),
        "data": ", ".join(_distinct(_name(run, "dataset") for run in runs)),
        "machines": "; ".join(machines),
        "versions": "; ".join(versions),
        "training time of all": str(duration(seconds)),
    }
    return _facts({name: value for name, value in facts.items() if value})


def _machine(hardware: Mapping[str, object]) -> str:
    return "{device_name} ({device}, {threads} threads, {precision})".format(**hardware)


def _comparison(runs: Sequence[Run], options: Options) -> str:
    text = io.StringIO()
    print_table(runs, "html", text, options)
    return f'<div class="wide tight">\n{text.getvalue()}</div>\n'


def _pictures(shown: list[Group], groups: list[Group], options: Options) -> tuple[list[Section], list[str]]:
    """The pictures that the runs have figures for; the rates, too, where several were tried."""
    wanted = [(title, draw, shown) for title, draw in PICTURES]
    if len({found.identity.get(rates.RATE) for found in groups}) > 1:
        wanted.append(("Sensitivity to the learning rate", lambda groups: rates.draw(groups, None), ordered(groups)))
    figures, lacking = [], []
    for title, draw, those in wanted:
        try:
            drawing = draw(those)
        except InputError as error:
            lacking.append(f"{title}: {error}")
            continue
        said = f"<figcaption>{'<br>'.join(map(escape, drawing.notes))}</figcaption>\n" if drawing.notes else ""
        figures.append(f"<h3>{escape(title)}</h3>\n<figure>\n{inline_svg(drawing.figure, title)}\n{said}</figure>\n")
    return [Section("Pictures", "".join(figures))] if figures else [], lacking


def _failed(runs: Sequence[Run]) -> list[Section]:
    """Which runs failed or cannot be read, where and why; nothing where all are well."""
    failed = [run for run in runs if run.status in ("failed", "damaged")]
    if not failed:
        return []
    rows = [{"run": str(run.folder), "status": run.status, "step": run.step, "why": run.reason} for run in failed]
    return [
        Section("Failed runs", f'<div class="wide">\n{fragment(["run", "status", "step", "why"], rows, ())}</div>\n')
    ]


def _settings(groups: Sequence[Group]) -> str:
    """What all runs share, folded away, and the keys in which they differ with their values."""
    specs = [found.identity for found in groups]
    keys = list(dict.fromkeys(key for spec in specs for key in spec))
    values = {key: _distinct(plain(spec[key]) for spec in specs if key in spec) for key in keys}
    shared = {key: found[0] for key, found in values.items() if len(found) == 1 and all(key in spec for spec in specs)}
    differing = {key: found for key, found in values.items() if len(found) > 1 and key not in OWN}
    partly = {key: found[0] for key, found in values.items() if len(found) == 1 and key not in shared}
    rows = [
        {"key": key, "values": "  |  ".join(value or "null" for value in found)} for key, found in differing.items()
    ]
    varied = f'<div class="wide">\n{fragment(["key", "values"], rows, ())}</div>\n' if rows else "<p>None differ.</p>\n"
    return (
        f"<h3>Keys in which runs differ</h3>\n{varied}"
        f"<details><summary>The {len(shared)} keys that all runs share</summary>\n"
        f"{_facts({key: value or 'null' for key, value in shared.items()})}</details>\n"
        f"<details><summary>The {len(partly)} keys that only some runs have, with one value</summary>\n"
        f"{_facts({key: value or 'null' for key, value in partly.items()})}</details>\n"
    )


def _listed(runs: Sequence[Run]) -> str:
    """Every run with its folder and its hash: `lrexp train FOLDER/spec.yaml` runs it again."""
    columns = ["method", "seed", "status", "spec hash", "folder"]
    rows = [
        {
            "method": _name(run, "method"),
            "seed": _seed(run),
            "status": run.status,
            "spec hash": (run.result or {}).get("spec_hash"),
            "folder": str(run.folder),
        }
        for run in runs
    ]
    return (
        "<p>Each folder holds <code>spec.yaml</code>: <code>lrexp train FOLDER/spec.yaml</code> runs it again.</p>\n"
        f'<details><summary>{len(rows)} runs</summary>\n<div class="wide">\n{fragment(columns, rows, ())}</div>\n'
        "</details>\n"
    )


def _seed(run: Run) -> object:
    """The seed of a run, from its result or its spec."""
    return run.result["seed"] if run.result else run.spec.get("seed")


def _name(run: Run, section: str) -> str:
    found = run.spec.get(section)
    return str(found.get("name", "?")) if isinstance(found, dict) else "?"


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _facts(facts: Mapping[str, str]) -> str:
    inner = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in facts.items())
    return f"<dl>\n{inner}</dl>\n"
