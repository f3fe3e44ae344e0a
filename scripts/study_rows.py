"""Writes the runs below folders as CSV, a row a run: what they differ in, what they reached, what they cost.

    python scripts/study_rows.py outputs/study > docs/study/name.csv

Columns: the keys of the specs in which the runs differ (seed included), the metrics, the costs, the spec's hash. Failed
runs are rows without metrics. The figures of a study are kept so, since outputs/ does not last.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from lrexp.report.collect import collect

COSTS = (
    "trainable_parameters",
    "optimizer_state_bytes",
    "peak_memory_bytes",
    "prepare_seconds",
    "step_seconds",
    "train_seconds",
)
LEFT_OUT = ("provenance.", "method.tuning.", "tracking.")


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values as text."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif not f"{prefix}{key}".startswith(LEFT_OUT):
            yield f"{prefix}{key}", "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    runs = [run for run in collect(parser.parse_args().folders) if run.result is not None]
    specs = [dict(flat(run.spec)) for run in runs]
    keys = list(dict.fromkeys(key for spec in specs for key in spec))
    differing = [key for key in keys if len({spec.get(key) for spec in specs}) > 1]
    results = [run.result or {} for run in runs]
    metrics = list(dict.fromkeys(name for result in results for name in result["metrics"]))
    writer = csv.writer(sys.stdout)
    writer.writerow([*differing, *metrics, *COSTS, "spec_hash"])
    rows = [
        [*(spec.get(key, "") for key in differing), *(result["metrics"].get(name) for name in metrics)]
        + [result["costs"][name] for name in COSTS]
        + [result["spec_hash"]]
        for spec, result in zip(specs, results, strict=True)
    ]
    writer.writerows(sorted(rows, key=lambda row: [str(cell) for cell in row]))


if __name__ == "__main__":
    main()
