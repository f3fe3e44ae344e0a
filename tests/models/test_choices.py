"""Every shipped model choice on a tiny model of the same classes: head, roles, and adapters that are reached."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lrexp.methods.adapters.lora import LoRA, LoRAHyperparameters
from lrexp.methods.base import Context, Decisions
from lrexp.models import build, load
from lrexp.models.model_spec import ModelSpec, Outputs, read
from lrexp.models.roles import head_modules, select
from lrexp.spec import choices
from lrexp.spec.errors import InputError
from tests import stand_ins

NAMES = [choice.name for choice in choices.choices("model") if choice.default("kind") == "encoder"]
HEADS = {
    "bert": ["bert.pooler", "classifier"],
    "deberta_v3": ["pooler", "classifier"],
    "embedded": ["bert.pooler", "classifier"],
    "minilm": ["classifier"],
    "roberta": ["classifier"],
    "roberta_large": ["classifier"],
}
POOLERS = {"minilm": ["bert.pooler.dense"]}  # a linear layer of the checkpoint like any other where it is no head
# role: name inside a layer
BERT = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
DEBERTA = {
    **BERT,
    "q": "attention.self.query_proj",
    "k": "attention.self.key_proj",
    "v": "attention.self.value_proj",
}
LABELS = Outputs("classification", 3)
GROUPS = {"attention": ["q", "k", "v", "o"], "mlp": ["up", "down"], "all-linear": list(BERT)}


def spec(name: str) -> ModelSpec:
    choice = choices.choice("model", name)
    return read({"name": name} | {field.key: field.default for field in choice.fields})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: stand_ins.save(name, tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, places: dict[str, Path]) -> tuple[ModelSpec, nn.Module]:
    found = spec(request.param)
    return found, build.base(found, load.place(replace(found, path=str(places[request.param]))), LABELS, seed=1)


def layers(name: str, roles: list[str]) -> list[str]:
    """The modules of these roles in all layers, sorted."""
    prefix = {"deberta_v3": "deberta", "roberta": "roberta", "roberta_large": "roberta"}.get(name, "bert")
    inside = DEBERTA if name == "deberta_v3" else BERT
    return sorted(f"{prefix}.encoder.layer.{i}.{inside[role]}" for i in range(2) for role in roles)


def test_the_head_is_all_that_pretraining_did_not_make(model: tuple[ModelSpec, nn.Module]) -> None:
    found, classifier = model
    assert head_modules(classifier, found.head) == HEADS[found.name]
    for pattern in found.head:
        assert head_modules(classifier, (pattern,)), f"{pattern} matches nothing"
    outside = {name.split(".")[0] for name, _ in classifier.named_parameters()} - {classifier.base_model_prefix}
    assert outside <= set(found.head)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_that_lacks_more_than_the_head_is_refused(name: str, places: dict[str, Path]) -> None:
    headless = ModelSpec(name=name, kind="encoder", head=(), path=str(places[name]))
    with pytest.raises(InputError, match="weights of the model are not in its files"):
        build.base(headless, load.place(headless), LABELS, seed=1)


@pytest.mark.parametrize("target", [*BERT, *GROUPS])
def test_roles_name_the_layers(model: tuple[ModelSpec, nn.Module], target: str) -> None:
    found, classifier = model
    expected = layers(found.name, GROUPS.get(target, [target]))
    if target == "all-linear":
        expected = sorted([*expected, *POOLERS.get(found.name, [])])
    assert sorted(select(classifier, target, found.head)) == expected


def test_no_encoder_has_a_gate(model: tuple[ModelSpec, nn.Module]) -> None:
    found, classifier = model
    with pytest.raises(InputError, match="'gate' matches no layer"):
        select(classifier, "gate", found.head)


def test_every_adapter_is_reached_and_only_it_and_the_head_are_trained(
    model: tuple[ModelSpec, nn.Module],
) -> None:
    found, classifier = model
    ids = torch.tensor([[2, 5, 6, 7, 3, 0], [2, 8, 9, 4, 10, 3]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    context = Context(
        seed=1, total_steps=1, device=torch.device("cpu"), dtype=torch.float32, head=found.head, cache=None
    )
    before = classifier.eval()(**batch).logits
    hyperparameters = LoRAHyperparameters(r=2, target_modules="all-linear", init_lora_weights="default_linear")
    adapted = LoRA(hyperparameters).prepare(classifier, Decisions(), context)
    logits = adapted(**batch).logits
    assert not torch.equal(logits, before)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    heads = tuple(f"{name}." for name in HEADS[found.name])
    own = {name for name in trained if ".lora_" in name}
    assert trained.keys() - own == {name for name, _ in adapted.named_parameters() if name.startswith(heads)}
    assert len(own) == 2 * len(layers(found.name, list(BERT)) + POOLERS.get(found.name, []))
    assert [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()] == []


@pytest.mark.parametrize("name", NAMES)
def test_where_a_model_comes_from(name: str) -> None:
    found = spec(name)
    assert found.path is None and found.kind == "encoder"
    if name == "embedded":
        assert found.hub is None and load.place(found).folder == load.EMBEDDED
    else:
        assert re.fullmatch(r"[\w-]+/[\w.-]+", found.hub or "")


def test_the_revision_of_deberta_is_one_with_safetensors() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", spec("deberta_v3").revision or "")
