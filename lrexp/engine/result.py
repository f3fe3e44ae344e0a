"""The end of a run: final evaluation, predictions, what was trained, and result.json as the last file to appear."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.engine import checkpoint
from lrexp.engine.evaluate import predict
from lrexp.engine.files import write_aside, write_json
from lrexp.engine.folder import WEIGHTS
from lrexp.engine.loop import Loop
from lrexp.engine.pack import tensors_in
from lrexp.engine.record import finite
from lrexp.engine.state import State
from lrexp.layers.quantised import stored_entries
from lrexp.spec.result import FORMAT, validate


def evaluate(loop: Loop) -> dict[str, float | None]:
    """Final metrics: those of the reported split under their bare names, of other labelled splits with a prefix.

    Writes predictions.parquet for the reported split. What is not finite is None.
    """
    begin = time.perf_counter()
    task, metrics = loop.task, {}
    size = loop.spec.training.per_device_eval_batch_size
    for name in [n for n in task.splits if n != "train" and n != task.reported] + [task.reported]:
        columns = predict(
            loop.model, task, task.splits[name], size, loop.context.device, loop.evaluation, loop.stop.check
        )
        prefix = "" if name == task.reported else f"{name}_"
        metrics |= {f"{prefix}{key}": value for key, value in task.metrics(columns).items()}
        if name == task.reported:
            write_predictions(loop.folder / "predictions.parquet", columns)
    if loop.state.best_step is not None:
        metrics["selected_step"] = float(loop.state.best_step)
    loop.state.evaluate_seconds += time.perf_counter() - begin
    metrics |= loop.state.measured
    metrics |= {f"method_{key}": value for key, value in loop.method.metrics().items()}
    return {name: finite(value) for name, value in metrics.items()}


def write_predictions(path: Path, columns: dict[str, np.ndarray]) -> None:
    """One row an item, in the order of the split; a two-dimensional column becomes lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values.tolist()) for name, values in columns.items()})
    write_aside(path, lambda aside: pq.write_table(table, aside))


def kept(model: nn.Module, keeps_base: bool) -> dict[str, Tensor]:
    """What outlives a run: all that was trained and the buffers where the base stays as it is, else the whole model."""
    return checkpoint.model_state(model, whole=not keeps_base)


def write_weights(folder: Path, model: nn.Module, keeps_base: bool) -> None:
    """adapter.safetensors with all that was trained where the base stays as it is, else model.safetensors."""
    tensors = {n: t.cpu().contiguous() for n, t in kept(model, keeps_base).items()}
    write_aside(folder / WEIGHTS[keeps_base], lambda aside: save_file(tensors, aside))


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state, at any depth."""
    return sum(t.numel() * t.element_size() for state in optimizer.state.values() for t in tensors_in(dict(state)))


def costs(model: nn.Module | None, state: State, loop: Loop | None) -> dict[str, Any]:
    """Clock and memory figures; what was not reached is None."""
    parameters = list(model.parameters()) if model else []
    compiling = {"compile_seconds": state.compile_seconds} if loop and loop.spec.training.torch_compile else {}
    return {
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad) if model else None,
        "total_parameters": sum(p.numel() for p in parameters) + stored_entries(model) if model else None,
        "optimizer_state_bytes": optimizer_bytes(loop.optimizer) if loop else None,
        "peak_memory_bytes": state.peak_bytes,
        "peak_memory_reserved_bytes": state.reserved_bytes or None,
        "step_seconds": state.step_seconds,
        "tokens_per_second": state.tokens_per_second,
        "tokens_seen": state.tokens_seen,
        "prepare_seconds": state.prepare_seconds if model else None,
        "prepare_peak_bytes": state.prepare_peak_bytes if model else None,
        "train_seconds": state.train_seconds,
        "evaluate_seconds": state.evaluate_seconds,
        **compiling,
        "resumed_from": state.resumed_from,
    }


def write(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Checks the result against its schema and writes it, whole or not at all; returns what it wrote."""
    row = {"format": FORMAT, **row}
    validate(row, str(folder / "result.json"))
    write_json(folder / "result.json", row)
    return row
