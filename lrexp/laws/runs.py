"""The laws of runs: the bytes that they leave do not depend on how a run came to its end."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lrexp.engine import forward
from lrexp.laws.stopping import stop_after
from lrexp.methods import catalog
from lrexp.methods.adapters.lora import LoRA
from lrexp.spec.errors import Interrupted

PER_LAYER = ("training.per_layer_updates=true", "training.max_grad_norm=null")


@pytest.fixture(autouse=True)
def refuse_to_try_without_its_package(method: str) -> None:
    """Skips a method whose optional package is not installed."""
    needed = catalog.entry(method).needs
    if needed and find_spec(needed) is None:
        pytest.skip(f"{method} needs {needed}, which is not installed")


def refuse_to_try(method: str, setting: tuple[str, ...]) -> None:
    """Skips what the method declares that it does not support."""
    supports = catalog.entry(method).supports
    needs = {"per_layer_updates": supports.per_layer, "accumulation": supports.accumulation, "=bf16": supports.bf16}
    for key, has in needs.items():
        if not has and any(key in word and "autocast" not in word for word in setting):
            pytest.skip(f"{method} declares that it does not support {key.strip('=')}")


def weights(folder: Path) -> bytes:
    """The bytes of the weights that a run kept."""
    return next(folder.glob("*.safetensors")).read_bytes()


def losses(folder: Path) -> list[float]:
    """The losses of a run's steps."""
    return [json.loads(line)["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_same_seed_gives_the_same_bytes(method: str, run: Any) -> None:
    """Weights, metrics and predictions of two runs of one spec are the same."""
    (first, one), (second, two) = run(f"method={method}", to="one"), run(f"method={method}", to="two")
    assert weights(one) == weights(two)
    assert first["metrics"] == second["metrics"]
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert (one / "predictions.parquet").read_bytes() == (two / "predictions.parquet").read_bytes()


def test_another_seed_gives_other_weights(method: str, run: Any) -> None:
    """The seed decides something."""
    assert weights(run(f"method={method}", to="one")[1]) != weights(run(f"method={method}", "seed=1", to="two")[1])


@pytest.mark.parametrize(
    "setting",
    [
        (),
        ("training.gradient_accumulation_steps=2", "training.per_device_train_batch_size=4"),
        ("hardware.precision=bf16",),
        ("hardware.precision=bf16_autocast", "training.eval_steps=2", "training.selection=best"),
        ("training.gradient_checkpointing=true", "model.dropout=0.2"),
        (*PER_LAYER, "training.gradient_accumulation_steps=2", "training.per_device_train_batch_size=4"),
    ],
    ids=["float32", "accumulation", "bf16", "autocast-best", "checkpointing", "per-layer"],
)
def test_stopped_and_resumed_equals_undisturbed(
    method: str, setting: tuple[str, ...], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped twice ends with the bytes of one that was not."""
    refuse_to_try(method, setting)
    whole, undisturbed = run(f"method={method}", *setting, to="undisturbed")
    stop_after(monkeypatch, 1, 4)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(f"method={method}", *setting, to="stopped")
    result, resumed = run(f"method={method}", *setting, to="stopped")
    assert result["costs"]["resumed_from"] == [1, 4]
    assert weights(resumed) == weights(undisturbed)
    assert (resumed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert result["metrics"] == whole["metrics"]


def test_updates_within_the_backward_pass_change_no_byte(method: str, run: Any) -> None:
    """Updates as soon as a gradient is whole are those of the usual loop."""
    refuse_to_try(method, PER_LAYER)
    _, one = run(f"method={method}", "training.max_grad_norm=null", to="one")
    _, two = run(f"method={method}", *PER_LAYER, to="two")
    assert weights(one) == weights(two)
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_activations_computed_again_change_no_byte(method: str, run: Any) -> None:
    """Gradient checkpointing saves memory alone, dropout included."""
    kept, one = run(f"method={method}", "model.dropout=0.2", to="kept")
    again, two = run(f"method={method}", "model.dropout=0.2", "training.gradient_checkpointing=true", to="again")
    assert weights(one) == weights(two) and kept["metrics"] == again["metrics"]
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_compiled_it_resumes_exactly_and_stays_close(method: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for the real backend, but with torch's own kernels: a C++ compiler would take minutes a method."""
    cls = catalog.load(method)
    if cls is not LoRA and issubclass(cls, LoRA) and cls.kinds is LoRA.kinds and not cls.diagonal:
        pytest.skip(f"{method} trains LoRA's own layers, of another start")
    monkeypatch.setattr(forward, "BACKEND", "aot_eager")
    short = (f"method={method}", "model.dropout=0.2", "training.max_steps=3", "dataset.max_length=8")
    _, eager = run(*short, to="eager")
    _, undisturbed = run(*short, "training.torch_compile=true", to="undisturbed")
    torch.testing.assert_close(torch.tensor(losses(undisturbed)), torch.tensor(losses(eager)), rtol=1e-4, atol=1e-5)
    stop_after(monkeypatch, 1)
    with pytest.raises(Interrupted):
        run(*short, "training.torch_compile=true", to="stopped")
    _, resumed = run(*short, "training.torch_compile=true", to="stopped")
    assert weights(resumed) == weights(undisturbed)
    assert (resumed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()


def test_accumulation_does_not_change_the_losses(method: str, run: Any) -> None:
    """Eight micro-batches of one are a batch of eight."""
    if not catalog.entry(method).supports.accumulation:
        pytest.skip(f"{method} declares that it does not accumulate")
    _, one = run(f"method={method}", to="one")
    setting = ("training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=8")
    _, eight = run(f"method={method}", *setting, to="eight")
    torch.testing.assert_close(torch.tensor(losses(eight)), torch.tensor(losses(one)), rtol=1e-5, atol=1e-5)


def test_accumulation_does_not_change_the_weights_in_float64(method: str, run: Any) -> None:
    """The same for the weights, where rounding hides nothing."""
    if not catalog.entry(method).supports.accumulation:
        pytest.skip(f"{method} declares that it does not accumulate")
    exact = (f"method={method}", "hardware.precision=float64", "optimizer=sgd")
    _, one = run(*exact, to="one")
    setting = ("training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=8")
    _, eight = run(*exact, *setting, to="eight")
    name = next(one.glob("*.safetensors")).name
    torch.testing.assert_close(load_file(eight / name), load_file(one / name), rtol=0, atol=1e-10)
