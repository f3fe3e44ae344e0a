"""The small table at the end of a run: what it reached, what it cost, where it lies."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lrexp.report import drift, quantity
from lrexp.spec.result import STANDARD_ERROR


def final_table(result: Mapping[str, Any], folder: Path, file: TextIO | None = None) -> None:
    """Prints one run's result, a quantity a line, in 80 columns (the folder's path is never cut or folded)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = file or sys.stdout
    console = Console(file=out, highlight=False, width=None if out.isatty() else 80)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(result):
        table.add_row(name, Text(value))
    what = dict.fromkeys(name for name in (result["dataset"], result["model"]) if name not in result["name"])
    title = ", ".join([result["name"], *what, result["method"], f"seed {result['seed']}: {result['status']}"])
    with console.capture() as capture:
        console.print(Text(title, style="bold"))
        console.print(table)
        console.print(Text.assemble(("run".ljust(_width(result)), "dim"), str(folder)), soft_wrap=True)
    out.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the table says: names and values, without what is not known."""
    costs = result["costs"]
    found = [
        _metric(result),
        ("trainable parameters", _trainable(costs)),
        ("peak memory", _memory(costs)),
        ("preparation", _preparation(costs)),
        ("training", _training(costs)),
        ("drift", drift.line(result["metrics"])),
        ("other metrics", _others(result)),
        ("error", _error(result)),
        ("marks", "; ".join(result["marks"])),
    ]
    return [(name, value) for name, value in found if value]


def _width(result: Mapping[str, Any]) -> int:
    return max(len(name) for name, _ in lines(result)) + 2


def _metric(result: Mapping[str, Any]) -> tuple[str, str | None]:
    name = result["primary_metric"]
    value = quantity.metric(result["metrics"].get(name))
    error = quantity.metric(result["metrics"].get(f"{name}{STANDARD_ERROR}"))
    beside = f" ± {error} (standard error)" if value and error else ""
    undefined = "undefined" if name in result["metrics"] else None
    return f"{name} ({result['evaluated_on']})", f"{value}{beside}" if value else undefined


def _trainable(costs: Mapping[str, Any]) -> str | None:
    trainable, total = costs["trainable_parameters"], costs["total_parameters"]
    if trainable is None or not total:
        return quantity.count(trainable)
    return f"{quantity.count(trainable)} ({100 * trainable / total:.3g} % of {quantity.count(total)})"


def _memory(costs: Mapping[str, Any]) -> str | None:
    peak, reserved = quantity.memory(costs["peak_memory_bytes"]), quantity.memory(costs["peak_memory_reserved_bytes"])
    planned = quantity.memory(costs.get("planned_peak_bytes"))
    tensors = [f"{planned} of tensors planned"] * (planned is not None)
    return ", ".join([peak, *([f"{reserved} reserved"] * bool(reserved)), *tensors]) if peak else None


def _preparation(costs: Mapping[str, Any]) -> str | None:
    seconds, peak = quantity.duration(costs["prepare_seconds"]), quantity.memory(costs["prepare_peak_bytes"])
    return f"{seconds}, peak {peak}" if seconds and peak else seconds


def _training(costs: Mapping[str, Any]) -> str | None:
    seconds, step, tokens = costs["train_seconds"], costs["step_seconds"], costs["tokens_per_second"]
    if seconds is None:
        return None
    speed = [f"{quantity.duration(step)} a step"] * (step is not None) + [f"{tokens or 0:,.0f} tokens/s"] * bool(tokens)
    compiling = [f"compiling {quantity.duration(costs['compile_seconds'])}"] if "compile_seconds" in costs else []
    resumed = [f"resumed at step {', '.join(map(str, costs['resumed_from']))}"] * bool(costs["resumed_from"])
    return ", ".join([str(quantity.duration(seconds)), *speed, *compiling, *resumed])


def _others(result: Mapping[str, Any]) -> str:
    """Metrics of the final evaluation and of the method; drift has its line, other splits stay in result.json."""
    shown = [
        f"{name} {quantity.metric(value)}"
        for name, value in result["metrics"].items()
        if value is not None
        and name != result["primary_metric"]
        and not name.endswith(STANDARD_ERROR)
        and not name.startswith(("train_", "validation_", "test_", *drift.PREFIXES))
    ]
    return ", ".join(shown)


def _error(result: Mapping[str, Any]) -> str | None:
    if result["error"] is None:
        return None
    first = (result["error"].strip().splitlines() or ["no message"])[0]
    at = f"at step {result['failed_at_step']}"
    return first if result["failed_at_step"] is None or at in first else f"{at}: {first}"
