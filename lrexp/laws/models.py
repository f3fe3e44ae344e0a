"""The laws of models and settings: what a method does to a model, and what its YAML says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lrexp.engine import checkpoint
from lrexp.engine.pack import tensors_in
from lrexp.engine.session import Session
from lrexp.laws.probe import matters, other_values
from lrexp.laws.tiny import session
from lrexp.methods import catalog
from lrexp.methods.base import Decisions
from lrexp.models import build
from lrexp.spec import choices
from lrexp.spec.convert import from_mapping


def trained(tiny: list[str], folder: Path, *overrides: str) -> Session:
    """The tiny run, executed in a folder."""
    done = session(tiny, folder, *overrides)
    done.execute()
    return done


def batch(of: Session) -> dict[str, torch.Tensor]:
    """Five sentences of the training data."""
    return of.task.collate(list(of.task.splits["train"].items[:5]))


def logits(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The model's outputs for a batch."""
    model.eval()
    with torch.no_grad():
        return model(**{k: v for k, v in inputs.items() if k != "labels"}).logits


def shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shape of each parameter, and whether it is trained."""
    return {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()}


def prepared_on_shapes(of: Session, decisions: Decisions | None) -> nn.Module:
    """The model of fake tensors, prepared by these decisions, or by the method's bound."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build.empty(of.run.model, of.run.place, of.task.outputs, torch.float32)
        decisions = of.run.method.bound(model) if decisions is None else decisions
        return of.run.method.prepare(model, decisions, of.context.on_shapes())


def test_first_output_is_that_of_the_base(method: str, tiny: list[str], tmp_path: Path) -> None:
    """A prepared model computes what the base did, or its entry says otherwise."""
    of = session(tiny, tmp_path, f"method={method}")
    base = build.base(of.run.model, of.run.place, of.task.outputs, 7)
    adapted = build.base(of.run.model, of.run.place, of.task.outputs, 7)
    adapted = of.run.method.prepare(adapted, of.run.method.decide(adapted, of.context), of.context)
    first, original = logits(adapted, batch(of)), logits(base, batch(of))
    same = torch.allclose(first, original, rtol=1e-5, atol=1e-7)  # the tiny model's logits are about 0.01
    assert same == catalog.entry(method).supports.starts_at_base


def test_only_declared_parameters_train(method: str, tiny: list[str], tmp_path: Path) -> None:
    """What is in no parameter group stays as it was prepared."""
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
    """`finalize` gives a plain model of the base's classes with the same outputs."""
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
    """What a run keeps is all that it has changed."""
    of = trained(tiny, tmp_path, f"method={method}")
    assert of.model is not None
    again = session(tiny, tmp_path / "again", f"method={method}").prepare()
    file = next(tmp_path.glob("*.safetensors"))
    assert file.name == ("adapter.safetensors" if of.run.method.keeps_base else "model.safetensors")
    checkpoint.load_model_state(again, load_file(file), whole=not of.run.method.keeps_base)
    torch.testing.assert_close(logits(again, batch(of)), logits(of.model, batch(of)), rtol=0, atol=0)


def test_prepare_works_on_shapes_alone(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Plans see the shapes that a run has."""
    of = session(tiny, tmp_path, f"method={method}")
    real = shapes(of.prepare())
    decided, bound = (shapes(prepared_on_shapes(of, decisions)) for decisions in (of.decisions, None))
    assert decided == real
    assert bound.keys() == real.keys() if "ranks" in of.decisions.values else bound == real


def test_bf16_trains_bf16_weights_and_states(method: str, tiny: list[str], tmp_path: Path) -> None:
    """hardware.precision=bf16 leaves nothing in float32."""
    of = trained(tiny, tmp_path, f"method={method}", "hardware.precision=bf16")
    assert of.model is not None and of.loop is not None
    assert {p.dtype for p in of.model.parameters()} == {torch.bfloat16}
    for state in of.loop.optimizer.state.values():
        state.get("base", state).pop("step")  # a count, which bf16 does not hold
    assert {v.dtype for v in tensors_in(list(of.loop.optimizer.state.values()))} == {torch.bfloat16}


def test_yaml_and_dataclass_hold_the_same_keys_and_values(method: str) -> None:
    """The YAML shows every hyperparameter, with its default."""
    fields = {f.key: f for f in choices.choice("method", method).fields if not f.key.startswith(("name", "tuning"))}
    hyperparameters = catalog.load(method).Hyperparameters
    assert set(fields) == {f.name for f in dataclasses.fields(hyperparameters)}
    from_yaml = from_mapping(hyperparameters, {key: f.default for key, f in fields.items()}, "method")
    assert from_yaml == hyperparameters()


def test_every_key_changes_the_run(method: str) -> None:
    """There is a setting in which a key makes a difference."""
    fields = {f.key: f for f in choices.choice("method", method).fields if not f.key.startswith(("name", "tuning"))}
    base = {key: f.default for key, f in fields.items()}
    other = {key: other_values(f.default, f.annotation) for key, f in fields.items()}
    counts = [key for key, f in fields.items() if type(f.default) is int]  # all at 1: nothing fills the small layers
    single = [{}, *({key: value} for key, values in other.items() for value in values), {key: 1 for key in counts}]
    places = [{}, *({"target_modules": value} for value in other.get("target_modules", []))]
    for key, values in other.items():
        contexts = ({k: v for k, v in (one | place).items() if k != key} for place in places for one in single)
        assert any(matters(method, base | context, key, values) for context in contexts), f"{key} changes nothing"
