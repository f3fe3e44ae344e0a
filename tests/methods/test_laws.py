"""The laws: what holds for every method of the catalogue. A method added later is tried here without a new line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lrexp.engine import checkpoint, forward
from lrexp.engine.pack import tensors_in
from lrexp.engine.session import Session
from lrexp.methods import catalog
from lrexp.methods.adapters.lora import LoRA
from lrexp.methods.base import Decisions
from lrexp.models import build
from lrexp.spec import choices
from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import Interrupted
from tests.conftest import session
from tests.engine.stopping import stop_after
from tests.methods.probe import differs, other_values, probed

METHODS = list(catalog.ENTRIES)
PER_LAYER = ("training.per_layer_updates=true", "training.max_grad_norm=null")
pytestmark = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def refuse_to_try_without_its_package(method: str) -> None:
    """Skips a method whose optional package is not installed."""
    needed = catalog.entry(method).needs
    if needed and find_spec(needed) is None:
        pytest.skip(f"{method} needs {needed}, which is not installed")


def trained(tiny: list[str], folder: Path, *overrides: str) -> Session:
    done = session(tiny, folder, *overrides)
    done.execute()
    return done


def batch(of: Session) -> dict[str, torch.Tensor]:
    return of.task.collate(list(of.task.splits["train"].items[:5]))


def logits(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**{k: v for k, v in inputs.items() if k != "labels"}).logits


def weights(folder: Path) -> bytes:
    return next(folder.glob("*.safetensors")).read_bytes()


def refuse_to_try(method: str, setting: tuple[str, ...]) -> None:
    """Skips what the method declares that it does not support."""
    supports = catalog.entry(method).supports
    needs = {"per_layer_updates": supports.per_layer, "accumulation": supports.accumulation, "=bf16": supports.bf16}
    for key, has in needs.items():
        if not has and any(key in word and "autocast" not in word for word in setting):
            pytest.skip(f"{method} declares that it does not support {key.strip('=')}")


def shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], bool]]:
    return {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()}


def prepared_on_shapes(of: Session, decisions: Decisions | None) -> nn.Module:
    """The model of fake tensors, prepared by these decisions, or by the method's bound."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build.empty(of.run.model, of.run.place, of.task.outputs, torch.float32)
        decisions = of.run.method.bound(model) if decisions is None else decisions
        return of.run.method.prepare(model, decisions, of.context.on_shapes())


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_same_seed_gives_the_same_bytes(method: str, run: Any) -> None:
    (first, one), (second, two) = run(f"method={method}", to="one"), run(f"method={method}", to="two")
    assert weights(one) == weights(two)
    assert first["metrics"] == second["metrics"]
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert (one / "predictions.parquet").read_bytes() == (two / "predictions.parquet").read_bytes()


def test_another_seed_gives_other_weights(method: str, run: Any) -> None:
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
    refuse_to_try(method, PER_LAYER)
    _, one = run(f"method={method}", "training.max_grad_norm=null", to="one")
    _, two = run(f"method={method}", *PER_LAYER, to="two")
    assert weights(one) == weights(two)
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_activations_computed_again_change_no_byte(method: str, run: Any) -> None:
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
    if not catalog.entry(method).supports.accumulation:
        pytest.skip(f"{method} declares that it does not accumulate")
    _, one = run(f"method={method}", to="one")
    setting = ("training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=8")
    _, eight = run(f"method={method}", *setting, to="eight")
    torch.testing.assert_close(torch.tensor(losses(eight)), torch.tensor(losses(one)), rtol=1e-5, atol=1e-5)


def test_accumulation_does_not_change_the_weights_in_float64(method: str, run: Any) -> None:
    if not catalog.entry(method).supports.accumulation:
        pytest.skip(f"{method} declares that it does not accumulate")
    exact = (f"method={method}", "hardware.precision=float64", "optimizer=sgd")
    _, one = run(*exact, to="one")
    setting = ("training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=8")
    _, eight = run(*exact, *setting, to="eight")
    name = next(one.glob("*.safetensors")).name
    torch.testing.assert_close(load_file(eight / name), load_file(one / name), rtol=0, atol=1e-10)


def test_first_output_is_that_of_the_base(method: str, tiny: list[str], tmp_path: Path) -> None:
    of = session(tiny, tmp_path, f"method={method}")
    base = build.base(of.run.model, of.run.place, of.task.outputs, 7)
    adapted = build.base(of.run.model, of.run.place, of.task.outputs, 7)
    adapted = of.run.method.prepare(adapted, of.run.method.decide(adapted, of.context), of.context)
    first, original = logits(adapted, batch(of)), logits(base, batch(of))
    same = torch.allclose(first, original, rtol=1e-5, atol=1e-7)  # the tiny model's logits are about 0.01
    assert same == catalog.entry(method).supports.starts_at_base


def test_only_declared_parameters_train(method: str, tiny: list[str], tmp_path: Path) -> None:
    of = session(tiny, tmp_path, f"method={method}")
    before = of.prepare()
    then = {name: p.detach().clone() for name, p in before.named_parameters()}
    declared = {name for group in of.run.method.parameter_groups(before) for name in group.parameters}
    assert declared == {name for name, p in before.named_parameters() if p.requires_grad}
    of.execute()
    assert of.model is not None
    changed = {name for name, p in of.model.named_parameters() if not torch.equal(p, then[name])}
    assert changed <= declared
    assert len(changed) > len(declared) / 2


def test_merged_equals_adapted(method: str, tiny: list[str], tmp_path: Path) -> None:
    of = trained(tiny, tmp_path, f"method={method}")
    if not catalog.entry(method).supports.merge:
        pytest.skip(f"{method} declares that it does not merge")
    assert of.model is not None
    inputs = batch(of)
    adapted = logits(of.model, inputs)
    plain = of.run.method.finalize(of.model)
    torch.testing.assert_close(logits(plain, inputs), adapted, rtol=1e-5, atol=1e-5)
    fresh = build.base(of.run.model, of.run.place, of.task.outputs, 0)
    assert {n: type(m) for n, m in plain.named_modules()} == {n: type(m) for n, m in fresh.named_modules()}


def test_saved_weights_give_the_trained_model_again(method: str, tiny: list[str], tmp_path: Path) -> None:
    of = trained(tiny, tmp_path, f"method={method}")
    assert of.model is not None
    again = session(tiny, tmp_path / "again", f"method={method}").prepare()
    file = next(tmp_path.glob("*.safetensors"))
    assert file.name == ("adapter.safetensors" if of.run.method.keeps_base else "model.safetensors")
    kept = {name: t for name, t in load_file(file).items() if name in checkpoint.model_state(again)}
    checkpoint.load_model_state(again, kept)
    torch.testing.assert_close(logits(again, batch(of)), logits(of.model, batch(of)), rtol=0, atol=0)


def test_prepare_works_on_shapes_alone(method: str, tiny: list[str], tmp_path: Path) -> None:
    of = session(tiny, tmp_path, f"method={method}")
    real = shapes(of.prepare())
    decided, bound = (shapes(prepared_on_shapes(of, decisions)) for decisions in (of.decisions, None))
    assert decided == real
    assert bound.keys() == real.keys() if "ranks" in of.decisions.values else bound == real


def test_bf16_trains_bf16_weights_and_states(method: str, tiny: list[str], tmp_path: Path) -> None:
    of = trained(tiny, tmp_path, f"method={method}", "hardware.precision=bf16")
    assert of.model is not None and of.loop is not None
    assert {p.dtype for p in of.model.parameters()} == {torch.bfloat16}
    for state in of.loop.optimizer.state.values():
        state.get("base", state).pop("step")  # a count, which bf16 does not hold
    assert {v.dtype for v in tensors_in(list(of.loop.optimizer.state.values()))} == {torch.bfloat16}


def test_yaml_and_dataclass_hold_the_same_keys_and_values(method: str) -> None:
    fields = {f.key: f for f in choices.choice("method", method).fields if not f.key.startswith(("name", "tuning"))}
    hyperparameters = catalog.load(method).Hyperparameters
    assert set(fields) == {f.name for f in dataclasses.fields(hyperparameters)}
    from_yaml = from_mapping(hyperparameters, {key: f.default for key, f in fields.items()}, "method")
    assert from_yaml == hyperparameters()


def test_every_key_changes_the_run(method: str) -> None:
    fields = {f.key: f for f in choices.choice("method", method).fields if not f.key.startswith(("name", "tuning"))}
    base = {key: f.default for key, f in fields.items()}
    single = [{}] + [{key: value} for key, f in fields.items() for value in other_values(f.default, f.annotation)]
    counts = [key for key, f in fields.items() if type(f.default) is int]  # all at 1: nothing fills the small layers
    for key, f in fields.items():
        contexts = [context for context in single if key not in context] + [{k: 1 for k in counts if k != key}]
        effects = (
            differs(probed(method, base | context), probed(method, base | context | {key: value}))
            for context in contexts
            for value in other_values(f.default, f.annotation)
        )
        assert any(effects), f"method.{key} changes nothing"
