"""Run folders as the engine writes them, with made-up numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from lrexp.spec import yaml_text

SPEC: dict[str, Any] = {
    "format": 1,
    "experiment": None,
    "seed": 1,
    "model": {"name": "embedded", "kind": "encoder", "path": None, "learning_rate_factor": 5.0},
    "dataset": {"name": "docmatch", "path": None, "max_length": 64},
    "method": {
        "name": "lora",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q", "v"],
        "tuning": {"learning_rate": 5e-4},
    },
    "optimizer": {"name": "adamw", "weight_decay": 0.01},
    "training": {"learning_rate": 0.0025, "max_steps": 300, "save_steps": 50, "logging_steps": 10},
    "hardware": {"device": "cpu", "threads": 2, "precision": "float32"},
    "tracking": {"name": "none", "project": "lrexp", "run_name": None},
    "provenance": {"data_fingerprint": "d4a7a0ffee", "model_fingerprint": "0de1beef00"},
}
RESULT: dict[str, Any] = {
    "format": 1,
    "status": "finished",
    "error": None,
    "failed_at_step": None,
    "name": "docmatch-embedded",
    "method": "lora",
    "model": "embedded",
    "dataset": "docmatch",
    "seed": 1,
    "evaluated_on": "test",
    "primary_metric": "accuracy",
    "metrics": {"accuracy": 0.734, "accuracy_standard_error": 0.0121, "f1": 0.72, "validation_accuracy": 0.7},
    "costs": {
        "trainable_parameters": 41_200,
        "total_parameters": 1_981_000,
        "optimizer_state_bytes": 329_600,
        "peak_memory_bytes": 412_000_000,
        "peak_memory_reserved_bytes": None,
        "step_seconds": 0.0231,
        "tokens_per_second": 5120.0,
        "prepare_seconds": 0.81,
        "prepare_peak_bytes": 300_000_000,
        "train_seconds": 38.2,
        "evaluate_seconds": 2.5,
        "resumed_from": [],
    },
    "versions": {"python": "3.11.9", "torch": "2.9.0"},
    "hardware": {"device": "cpu", "device_name": "a processor", "threads": 2, "precision": "float32"},
    "data_fingerprint": "d4a7a0ffee",
    "model_fingerprint": "0de1beef00",
    "init_fingerprint": None,
    "spec_hash": "5bec5bec5b",
    "marks": [],
}


def put(mapping: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with values set by dotted keys; `...` takes a key out."""
    mapping = copy.deepcopy(mapping)
    for key, value in changes.items():
        *sections, last = key.split(".")
        inner = mapping
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
        if value is ...:
            del inner[last]
    return mapping


def write_spec(folder: Path, seed: int = 1, **changes: Any) -> Path:
    """A run's folder with a spec and nothing else. Changes read method__r=4."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = put(SPEC, {"seed": seed, **{key.replace("__", "."): value for key, value in changes.items()}})
    (folder / "spec.yaml").write_text(yaml_text.dump(spec), encoding="utf-8")
    return folder


def write_run(
    folder: Path, seed: int = 1, accuracy: float | None = 0.734, result: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A finished run's folder; `result` changes result.json by dotted keys, the other keywords change the spec."""
    write_spec(folder, seed, **changes)
    spec = yaml_text.read_file(folder / "spec.yaml")
    own = {section: spec[section]["name"] for section in ("method", "model", "dataset")}
    own |= {name: spec["provenance"].get(name, RESULT[name]) for name in ("data_fingerprint", "model_fingerprint")}
    found = put(RESULT, {"seed": seed, "metrics.accuracy": accuracy, **own, **(result or {})})
    (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def write_failed(
    folder: Path, seed: int = 1, step: int | None = 40, error: str = "the loss is NaN", **changes: Any
) -> Path:
    """A failed run's folder."""
    nothing = {f"costs.{name}": None for name in ("optimizer_state_bytes", "step_seconds", "tokens_per_second")}
    failed = {"status": "failed", "error": error, "failed_at_step": step, "metrics": {}, **nothing}
    folder = write_run(folder, seed, result=failed, **changes)
    found = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(found | {"metrics": {}}))
    return folder


def write_progress(folder: Path, step: int, torn: str = "") -> Path:
    """Lines of metrics.jsonl up to a step, and the beginning of one more."""
    lines = [json.dumps({"step": s, "train/loss": 1 / s}) for s in range(10, step + 1, 10)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + torn)
    return folder
