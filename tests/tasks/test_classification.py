"""Batches, summed losses and predictions of the two tasks; the section's checks; every YAML is a valid section."""

from __future__ import annotations

import math
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrexp.spec.choices import choices
from lrexp.spec.errors import InputError, RunError
from lrexp.tasks import build
from lrexp.tasks.base import Task
from lrexp.tasks.labelled import ClassificationData
from tests.tasks.conftest import Folder, pairs, section


class Lengths(nn.Module):
    """Logits that are a fixed function of how many tokens an item has."""

    def __init__(self, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.factors = torch.linspace(-1, 1, outputs, dtype=dtype) if outputs > 1 else torch.ones(1, dtype=dtype)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> SimpleNamespace:
        lengths = attention_mask.sum(1, keepdim=True).to(self.factors.dtype)
        return SimpleNamespace(logits=lengths / 10 * self.factors)  # (items, 1) * (outputs,)


@pytest.fixture
def classes(folder: Folder, tokenizer: Any) -> Task:
    return build.build(section(folder(), max_length=21, metrics=["accuracy", "f1"]), tokenizer, seed=1)


@pytest.fixture
def targets(folder: Folder, tokenizer: Any) -> Task:
    rows = [{**row, "label": row["label"] + 0.25} for row in pairs(40)]
    return build.build(section(folder(train=rows, validation=rows[:9]), task="regression"), tokenizer, seed=1)


def batch_of(task: Task, count: int = 6) -> dict[str, Tensor]:
    return task.collate(task.splits["train"].items[:count])


def test_a_batch_is_padded_to_a_multiple_of_eight(classes: Task, tokenizer: Any) -> None:
    batch = batch_of(classes)
    longest = max(classes.splits["train"].lengths[:6])
    assert batch["input_ids"].shape == (6, -(-longest // 8) * 8) and batch["input_ids"].dtype == torch.int64
    for row, item in enumerate(classes.splits["train"].items[:6]):
        length = len(item["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == item["input_ids"].tolist()
        assert batch["token_type_ids"][row, :length].tolist() == item["token_type_ids"].tolist()
        assert (batch["input_ids"][row, length:] == tokenizer.pad_token_id).all()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
    assert classes.tokens(batch) == classes.splits["train"].lengths[:6].sum() and classes.targets(batch) == 6


def test_a_batch_is_never_wider_than_max_length(folder: Folder, tokenizer: Any) -> None:
    task = build.build(section(folder(), max_length=13), tokenizer, seed=1)
    assert task.collate(task.splits["train"].items)["input_ids"].shape == (40, 13)


def test_padding_on_the_left(folder: Folder, tokenizer: Any) -> None:
    import copy

    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    task = build.build(section(folder()), left, seed=1)
    batch, items = batch_of(task, 2), task.splits["train"].items
    assert batch["input_ids"][0].tolist()[-len(items[0]["input_ids"]) :] == items[0]["input_ids"].tolist()
    assert batch["attention_mask"][0, 0] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_cross_entropy_is_summed_in_float32_or_better(classes: Task, dtype: torch.dtype) -> None:
    batch = batch_of(classes)
    loss = classes.loss(Lengths(2, dtype), batch)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and loss.ndim == 0
    logits = Lengths(2, dtype)(**inputs(batch)).logits.double()
    by_hand = sum(
        math.log(sum(math.exp(x) for x in row)) - row[y]
        for row, y in zip(logits.tolist(), batch["labels"], strict=True)
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_squared_error_is_summed(targets: Task, dtype: torch.dtype) -> None:
    batch = batch_of(targets)
    assert batch["labels"].dtype == torch.float64 and targets.outputs.num_labels == 1
    loss = targets.loss(Lengths(1, dtype), batch)
    logits = Lengths(1, dtype)(**inputs(batch)).logits.double()[:, 0]
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(((logits - batch["labels"]) ** 2).sum().item(), rel=1e-5)


def test_the_loss_of_a_batch_is_the_sum_over_its_parts(classes: Task) -> None:
    model, items = Lengths(2, torch.float64), classes.splits["train"].items
    parts = [classes.loss(model, classes.collate(items[i : i + 2])) for i in (0, 2, 4)]
    assert torch.stack(parts).sum().item() == pytest.approx(classes.loss(model, batch_of(classes)).item(), rel=1e-12)


def test_predictions_and_metrics(classes: Task, targets: Task) -> None:
    for task, outputs, names in ((classes, 2, {"accuracy", "f1"}), (targets, 1, {"pearson", "spearman"})):
        items = task.splits["train"].items
        found = task.predict(Lengths(outputs, torch.float32), task.collate(items))
        assert {name: len(column) for name, column in found.items()} == dict.fromkeys(
            ("row", "label", "prediction", "loss"), 40
        )
        assert found["row"].tolist() == list(range(40))
        metrics = task.metrics(found)
        assert names | {f"{name}_standard_error" for name in names} | {"loss"} <= metrics.keys()
        assert metrics["loss"] == pytest.approx(found["loss"].mean(dtype=np.float64))
        assert all(type(value) is float for value in metrics.values())


def test_a_loss_that_is_not_finite_fails_the_run(classes: Task) -> None:
    found = classes.predict(Lengths(2, torch.float32), batch_of(classes))
    found["loss"][2] = np.nan
    with pytest.raises(RunError, match="the loss of 1 of 6 evaluated items is not finite"):
        classes.metrics(found)


def test_a_tokenizer_without_padding_is_refused(folder: Folder) -> None:
    with pytest.raises(InputError, match=r"is text, and the model reads none \(it has no tokenizer\)"):
        build.build(section(folder()), None, 0)
    with pytest.raises(InputError, match="no padding token"):
        build.build(section(folder()), SimpleNamespace(model_max_length=512, pad_token_id=None), 1)


def inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name not in ("labels", "row")}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"max_length": 3}, "dataset.max_length is 3"),
        ({"max_train_samples": 0}, "dataset.max_train_samples is 0"),
        ({"max_eval_samples": -1}, "dataset.max_eval_samples is -1"),
        ({"validation_fraction": 1.0}, "dataset.validation_fraction is 1.0"),
        ({"text_columns": []}, "dataset.text_columns names 0 columns"),
        ({"text_columns": ["a", "b", "c"]}, "dataset.text_columns names 3 columns"),
        ({"text_columns": "label"}, "dataset.label_column is 'label'.*stands twice"),
        ({"labels": ["one"]}, "dataset.labels is .one."),
        ({"labels": ["one", "one"]}, "dataset.labels is .one, one."),
        ({"labels": ["one", "two"], "task": "regression"}, "dataset.labels names classes, but task is regression"),
        ({"metrics": ["pearson"]}, "dataset.metrics has 'pearson': classification has accuracy"),
        ({"metrics": []}, "dataset.metrics is"),
        ({"primary_metric": "f1"}, "dataset.primary_metric is 'f1'"),
        ({"task": "ranking"}, "dataset.task: 'ranking' is not one of classification, regression"),
        ({"text_colums": "a"}, "dataset.text_colums: unknown key. Did you mean 'text_columns'"),
    ],
)
def test_what_is_wrong_with_a_section_is_said(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        build.check(section("somewhere", **keys))
    assert str(caught.value).count("\n") <= 1


def test_every_choice_is_a_valid_section_of_known_keys() -> None:
    names = {field.name for field in fields(ClassificationData)}
    for choice in choices("dataset"):
        if choice.default("task") not in ("classification", "regression"):
            continue
        keys = {field.key: field.default for field in choice.fields}
        assert keys.keys() - {"name"} <= names, choice.name
        build.check({**keys, "name": choice.name})
    local = {field.key for field in next(c for c in choices("dataset") if c.name == "local").fields}
    assert names - local <= {"name", "hub", "hub_config"}
