"""The schema of a run's `result.json`, written down once: `validate` checks against it, `documentation` prints it.

`metrics` holds numbers that repeat bit for bit, `costs` what clock and memory gave. Metrics of the final evaluation
have bare names ("accuracy"), all others a prefix ("validation_accuracy"); a `<metric>_standard_error` stands beside a
metric where it is known. Every field must be there, but for those that came after the first results of this format.
Fields that are not listed are left alone: a later lrexp may add some without a new format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lrexp.spec.errors import InputError

FORMAT = 1  # raised when a field changes its meaning or goes away
FILE = "result.json"
STATUSES = ("finished", "failed", "interrupted")
LOWER_IS_BETTER = ("loss", "mse", "perplexity", "bits_per_byte")  # all other metrics are better when they are higher
STANDARD_ERROR = "_standard_error"  # the end of the name of a metric's standard error


@dataclass(frozen=True)
class Field:
    """One field: dotted name, type, when it may be null, unit and meaning.

    `null` is "", "unfinished", "unknown", or "added": null or, in older results, absent.
    """

    name: str
    type: str
    null: str
    unit: str
    meaning: str


FIELDS = (
    Field("format", "int", "", "", "version of this schema"),
    Field("status", "finished | failed | interrupted", "", "", "how the run ended"),
    Field("error", "str", "unknown", "", "what went wrong, tables show its first line; null unless failed"),
    Field("failed_at_step", "int", "unknown", "steps", "the step in which it failed; null: before the first"),
    Field("name", "str", "", "", "experiment, or dataset-model"),
    Field("method", "str", "", "", "name of the method"),
    Field("model", "str", "", "", "name of the model"),
    Field("dataset", "str", "", "", "name of the dataset"),
    Field("seed", "int", "", "", "the run's one seed"),
    Field("evaluated_on", "test | validation", "", "", "split of the final evaluation"),
    Field("primary_metric", "str", "", "", "exact name of the metric that tables show, a key of metrics"),
    Field("metrics", "map of str to float", "", "", "numbers that repeat bit for bit; null: undefined"),
    Field("costs.trainable_parameters", "int", "unfinished", "numbers", "entries of all tensors that are trained"),
    Field("costs.total_parameters", "int", "unfinished", "numbers", "entries of all parameters of the prepared model"),
    Field("costs.optimizer_state_bytes", "int", "unfinished", "bytes", "tensors of the optimizer after the last step"),
    Field("costs.peak_memory_bytes", "int", "unfinished", "bytes", "peak in training: allocated on CUDA, RSS on CPU"),
    Field("costs.planned_peak_bytes", "int", "added", "bytes", "tensors at the peak of training, from shapes alone"),
    Field("costs.peak_memory_reserved_bytes", "int", "unknown", "bytes", "peak reserved by the allocator; null on CPU"),
    Field("costs.step_seconds", "float", "unknown", "seconds", "median without warm-up; null where none was timed"),
    Field("costs.tokens_per_second", "float", "unknown", "1/seconds", "without padding; null where no step was timed"),
    Field(
        "costs.tokens_seen",
        "int",
        "added",
        "numbers",
        "tokens trained on, without padding; images, for images",
    ),
    Field("costs.prepare_seconds", "float", "unfinished", "seconds", "time of decide and prepare"),
    Field("costs.prepare_peak_bytes", "int", "unfinished", "bytes", "peak memory in decide and prepare"),
    Field("costs.train_seconds", "float", "unfinished", "seconds", "all steps, those before a resume included"),
    Field("costs.evaluate_seconds", "float", "unfinished", "seconds", "all evaluations"),
    Field("costs.resumed_from", "list of int", "", "steps", "the steps at which the run was resumed"),
    Field("versions", "map of str to str", "", "", "python, torch, transformers, lrexp and others that decide numbers"),
    Field("hardware.device", "str", "", "", "cpu or cuda"),
    Field("hardware.device_name", "str", "", "", "the processor's or the accelerator's name"),
    Field("hardware.threads", "int", "", "threads", "threads of torch on the CPU"),
    Field("hardware.precision", "str", "", "", "float32, bf16_autocast or bf16"),
    Field("data_fingerprint", "str", "", "", "hash of the encoded data: runs are pooled only where it is the same"),
    Field("model_fingerprint", "str", "", "", "hash of the base model's weights"),
    Field("init_fingerprint", "str", "added", "", "hash of the other run's weights that it starts from (init_from)"),
    Field("spec_hash", "str", "", "", "hash of what decides the numbers"),
    Field("marks", "list of str", "", "", "what a reader of the row must know, such as 'versions differ'"),
)
_MISSING = object()


def validate(result: object, where: str) -> None:
    """Raises InputError, which names the file `where` and the field, unless `result` is what the schema says."""
    if not isinstance(result, Mapping):
        raise InputError(f"{where}: a mapping of fields is needed, this is {_shown(result)}")
    _check_format(result.get("format", _MISSING), where)
    for field in FIELDS:
        value = _look_up(result, field.name)
        if field.null == "added" and value in (None, _MISSING):
            continue
        if value is _MISSING:
            raise InputError(f"{where}: {field.name} is missing")
        if value is None and field.null in ("unknown", "unfinished" if result["status"] != "finished" else None):
            continue
        if not _fits(value, field.type):
            raise InputError(f"{where}: {field.name} is {_shown(value)}: {_needed(field)}")
        for name, number in _numbers(field, value):
            if number < 0 and not name.startswith(("metrics.", "seed")):
                raise InputError(f"{where}: {name} is {number}: it cannot be negative")
    _check_end(result, where)


def documentation() -> str:
    """The schema as a Markdown table."""
    null = {"": "never", "unfinished": "unless finished", "unknown": "yes", "added": "yes, or absent"}
    lines = ["| field | type | may be null | unit | meaning |", "|---|---|---|---|---|"]
    for field in FIELDS:
        kind = field.type.replace("|", "\\|")
        lines.append(f"| `{field.name}` | {kind} | {null[field.null]} | {field.unit} | {field.meaning} |")
    return "\n".join(lines) + "\n"


def _check_format(value: object, where: str) -> None:
    if value is _MISSING:
        raise InputError(f"{where}: format is missing: this is no result of lrexp")
    if not _fits(value, "int"):
        raise InputError(f"{where}: format is {_shown(value)}: a whole number is needed")
    if isinstance(value, int) and value > FORMAT:
        raise InputError(f"{where}: format {value} is newer than this lrexp, which reads {FORMAT}: install a newer one")
    if value != FORMAT:
        raise InputError(f"{where}: format is {value}: it is {FORMAT}")


def _check_end(result: Mapping[str, Any], where: str) -> None:
    """What status, error and metrics say must agree."""
    status, error, metric = result["status"], result["error"], result["primary_metric"]
    if (status == "failed") != (error is not None):
        raise InputError(
            f"{where}: error is {_shown(error)}, status is {status}: a failed run has an error, no other has"
        )
    if status == "finished" and metric not in result["metrics"]:
        raise InputError(f"{where}: metrics.{metric} is missing: primary_metric names it")


def _look_up(result: Mapping[str, Any], name: str) -> Any:
    value: Any = result
    for part in name.split("."):
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    return value


def _fits(value: object, kind: str) -> bool:
    if kind.startswith("list of "):
        return isinstance(value, list | tuple) and all(_fits(item, kind[8:]) for item in value)
    if kind.startswith("map of str to "):
        inner = kind[14:]
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return False
        return all(_fits(item, inner) or (item is None and inner == "float") for item in value.values())
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind == "str":
        return isinstance(value, str)
    return value in kind.split(" | ")


def _numbers(field: Field, value: object) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, int | float):
        yield field.name, value
    elif isinstance(value, list | tuple):
        yield from ((f"{field.name}[{i}]", item) for i, item in enumerate(value) if isinstance(item, int | float))


def _needed(field: Field) -> str:
    words = {
        "int": "a whole number",
        "float": "a finite number",
        "str": "text",
        "list of int": "a list of whole numbers",
        "list of str": "a list of texts",
        "map of str to float": "a flat map of names to finite numbers",
        "map of str to str": "a map of names to texts",
    }
    needed = words.get(field.type) or f"one of {', '.join(field.type.split(' | '))}"
    return f"{needed}{' or null' if field.null in ('unknown', 'added') else ''} is needed"


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
