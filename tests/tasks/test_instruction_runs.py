"""Whole runs on questions: answers are written, compared and kept; stopped, resumed, evaluated again and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from lrexp.cli import main
from lrexp.laws.stopping import stop_after
from lrexp.methods.catalog import families
from lrexp.models.load import TOKENIZERS
from lrexp.spec.compose import compose
from lrexp.spec.errors import Interrupted
from lrexp.tasks import build, instruction_task
from lrexp.train import train
from tests.tasks.conftest import write
from tests.tasks.test_causal_runs import SIZES
from tests.tasks.test_instruction import section, sums


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Overrides of a run of four steps that takes a second."""
    write(tmp_path / "data" / "train.jsonl", sums(40))
    write(tmp_path / "data" / "test.jsonl", sums(6, 90))
    sizes = [f"model.config.{key}={value}" for key, value in SIZES.items()]
    return [
        "model=llama_tiny", *sizes, "dataset=gsm8k", f"dataset.path={tmp_path / 'data'}", "dataset.max_length=64",
        "dataset.prompt={question}", "dataset.max_new_tokens=5", "dataset.few_shot=1", "method=full",
        "training.max_steps=4", "training.per_device_train_batch_size=4", "training.per_device_eval_batch_size=4",
        "training.save_steps=2", "training.logging_steps=1", "hardware=cpu", "hardware.threads=1",
    ]  # fmt: skip


def run(words: list[str], folder: Path) -> tuple[dict[str, Any], Path]:
    return train(compose(words, families())[0], str(folder))


def test_answers_are_kept_and_a_resumed_run_writes_the_same(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, folder = run(words, tmp_path / "whole")
    assert whole["primary_metric"] == "exact_match" and whole["evaluated_on"] == "test"
    assert {"exact_match", "exact_match_standard_error", "answered", "perplexity"} <= whole["metrics"].keys()
    assert "validation_perplexity" in whole["metrics"] and "validation_exact_match" not in whole["metrics"]
    kept = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert list(kept) == ["row", "loss", "tokens", "bytes", "generated", "label", "prediction", "correct"]
    assert kept["label"] == ["181", "183", "185", "187", "189", "191"] and all(kept["generated"])
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        run(words, tmp_path / "stopped")
    again, resumed = run(words, tmp_path / "stopped")
    assert again["metrics"] == whole["metrics"] and again["costs"]["resumed_from"] == [3]
    assert pq.read_table(resumed / "predictions.parquet").to_pydict() == kept
    assert main(["eval", str(folder), "--format", "json"]) == 0
    found = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out) if row["split"] == "test"}
    assert found == {name: whole["metrics"][name] for name in found} and "exact_match" in found
    assert main(["export", str(folder), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0


def test_selecting_on_answers(words: list[str], tmp_path: Path) -> None:
    settings = ["training.selection=best", "training.selection_metric=exact_match", "training.eval_steps=2"]
    result, folder = run([*words, *settings, "dataset.max_eval_samples=3"], tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/exact_match" in line for line in lines)
    assert result["metrics"]["selected_step"] == 2.0  # none is right: the first of equals


class Flat(nn.Module):
    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 2048))


def test_right_and_wrong_answers_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.jsonl", sums(9))
    write(tmp_path / "test.jsonl", sums(4))
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS["embedded"])
    task = build.build(section(tmp_path, max_new_tokens=40), tokenizer, 0)
    said = ["so #### 1.0", "#### 4", "no idea", "#### 7\n\nQ: and?\n#### 8"]

    def scripted(*_: Any) -> Tensor:
        rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in said]
        return torch.tensor([row + [5] * (40 - len(row)) for row in rows])  # what follows the end is not looked at

    monkeypatch.setattr(instruction_task, "greedy", scripted)
    found = task.predict(Flat(), task.collate(list(task.splits["test"].items)))
    assert found["generated"].tolist() == said and found["label"].tolist() == ["1", "3", "5", "7"]
    assert found["prediction"].tolist() == ["1.0", "4", None, "7"]
    assert found["correct"].tolist() == [True, False, False, True]
    metrics = task.metrics(found)
    assert metrics["exact_match"] == 0.5 and metrics["exact_match_standard_error"] == 0.25
    assert metrics["answered"] == 0.75
    assert metrics["perplexity"] == pytest.approx(2048, rel=1e-5)
