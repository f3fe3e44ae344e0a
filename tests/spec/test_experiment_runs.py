"""A sample of the shipped experiments runs on tiny stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.spec.test_experiments import MATH, MODELS, composed, parts


def test_the_warm_start_of_mrpc_from_a_run_of_mnli(tmp_path: Path) -> None:
    from lrexp.train import train
    from tests import stand_ins
    from tests.tasks.test_glue import copy

    model = stand_ins.save("roberta", tmp_path / "model")
    start: list[str] = []
    for task in ("mnli", "mrpc"):
        spec = composed(
            *(f"experiment=lora_roberta_base_{task}", f"model.path={model}", "hardware=cpu", "hardware.threads=1"),
            *(f"dataset.path={copy(tmp_path / f'data_{task}', task)}", "training.max_steps=1", *start),
        )
        result, folder = train(spec, str(tmp_path / task))
        start = [f"init_from={folder}"]
    assert (result["status"], result["evaluated_on"]) == ("finished", "validation")
    log = (folder / "log.txt").read_text()
    assert f"starts from the weights of {tmp_path / 'mnli'}, its head drawn anew, since the data are others" in log


@pytest.mark.parametrize(
    "name",
    ["lora_roberta_base_mrpc", "pissa_deberta_v3_base_stsb", "galore_roberta_base_mrpc", "said_roberta_base_mrpc"],
)
def test_a_sample_runs_two_steps_on_tiny_stand_ins(name: str, tmp_path: Path) -> None:
    from tests import stand_ins
    from tests.tasks.test_glue import copy

    method, model, dataset = parts(name)
    place = (f"model.path={stand_ins.save(MODELS[model], tmp_path / 'model')}",)
    size = {"galore": "method.rank=2", "said": "method.intrinsic_dimension=100"}.get(method, "method.r=2")
    result, folder = ran(name, tmp_path / "run", *place, f"dataset.path={copy(tmp_path / 'data', dataset)}", size)
    assert result["evaluated_on"] == "validation" and result["primary_metric"] in result["metrics"]
    assert ("selected on test" in result["marks"]) == name.startswith("lora")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) >= 2


def test_pretraining_runs_two_steps_on_a_small_llama(tmp_path: Path) -> None:
    from tests.tasks.streams import fill

    small = (
        "hidden_size=16",
        "intermediate_size=24",
        "num_hidden_layers=1",
        "num_attention_heads=2",
        "vocab_size=2048",
    )
    common = (
        *(f"model.config.{size}" for size in small),
        *("model.tokenizer=embedded", f"dataset.path={fill(tmp_path / 'shards')}", "dataset.max_length=16"),
        *("dataset.buffer_size=8", "dataset.max_eval_tokens=200", "training.warmup_steps=0"),
        *("training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2", "method.rank=4"),
    )
    for name in ("galore_llama_7b_c4", "sltrain_llama_7b_c4"):
        result, _ = ran(name, tmp_path / name, *common)
        assert result["primary_metric"] == "perplexity" and result["metrics"]["perplexity"] > 1


def test_questions_are_answered_after_two_steps(tmp_path: Path) -> None:
    from tests import stand_ins

    model = stand_ins.save_decoder("llama2_7b", tmp_path / "model")
    rows = [{"query": f"What is {i} + {i}?", "response": f"The answer is: {2 * i}"} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"question": f"What is {i} + {i}?", "answer": f"#### {2 * i}"} for i in range(3)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = (f"dataset.path={tmp_path / 'train.jsonl'}", f"dataset.test_path={tmp_path / 'test.jsonl'}")
    short = ("dataset.max_length=128", "dataset.max_new_tokens=4", "training.gradient_accumulation_steps=1")
    few = {"lora_ga": "method.calibration_batches=2", "eva": "method.tau=0.5", "pissa": "method.svd_niter=2"}
    for method in MATH:
        name = f"{method}_llama2_7b_metamath"
        small = (f"model.path={model}", *data, *short, "method.r=2", few[method])
        result, _ = ran(name, tmp_path / name, *small)
        assert result["evaluated_on"] == "test" and 0 <= result["metrics"]["exact_match"] <= 1


def test_compression_and_subspaces_run(tmp_path: Path) -> None:
    from tests import stand_ins
    from tests.tasks.pictures import images, write_npz

    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("The cat sat on the mat and the dog ran under the tree. " * 80)
    place = (f"model.path={stand_ins.save_decoder('llama2_7b', tmp_path / 'model')}", f"dataset.path={tmp_path}")
    small = ("dataset.max_length=32", "method.calibration_batches=4")
    result, _ = ran("svd_llm_llama_7b_wikitext2", tmp_path / "svd", *place, *small, steps=0)
    assert result["metrics"]["perplexity"] > 1
    pictures = write_npz(tmp_path / "npz", train=images(24), test=images(12))
    name = "intrinsic_dimension_mlp_mnist"
    result, _ = ran(name, tmp_path / name, f"dataset.path={pictures}", "method.intrinsic_dimension=9")
    assert result["costs"]["trainable_parameters"] == 9 and 0 <= result["metrics"]["accuracy"] <= 1


def ran(name: str, folder: Path, *small: str, steps: int = 2) -> tuple[dict[str, Any], Path]:
    from lrexp.train import train

    spec = composed(
        *(f"experiment={name}", f"training.max_steps={steps}", "training.logging_steps=1", *small),
        *("hardware.device=cpu", "hardware.threads=1"),
    )
    result, place = train(spec, str(folder))
    assert (result["status"], result["name"]) == ("finished", name)
    return result, place
