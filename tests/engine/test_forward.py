"""The switches of the training forward: compiled for real, refused where they cannot be had, gone after the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import warnings
from logging import getLogger
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from torch._inductor import cpp_builder, exc

from lrexp.cli import main
from lrexp.engine import forward
from lrexp.engine.loop import Loop
from lrexp.spec.errors import InputError, Interrupted, RunError
from tests.conftest import merged

COMPILED = "training.torch_compile=true"
RECOMPUTED = "training.gradient_checkpointing=true"


def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Fills up with the shapes of the batches for which a program is made."""
    found: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        found.extend({tuple(t.shape) for t in inputs if t.dtype == torch.int64 and t.ndim == 2 and len(t) > 1})
        return graph.forward

    monkeypatch.setattr(forward, "BACKEND", backend)
    return found


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_by_the_real_compiler_a_run_resumes_exactly_is_close_and_evaluates_without_it(
    tiny: list[str], tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    short = ("method=lora", "model.dropout=0.2", "dataset.max_length=8")
    _, eager = run(*short, to="eager")
    capfd.readouterr()
    assert main(["train", *merged(tiny, (*short, COMPILED, f"output_dir={tmp_path / 'whole'}"))]) == 0
    told = capfd.readouterr()
    assert {line.split()[0] for line in told.err.splitlines()} == {"compiling:", "lora"}
    assert ", compiling " in told.out
    whole = tmp_path / "whole"
    torch.testing.assert_close(losses(whole), losses(eager), rtol=1e-4, atol=1e-5)
    costs = json.loads((whole / "result.json").read_text())["costs"]
    assert costs["train_seconds"] > costs["compile_seconds"] > 100 * costs["step_seconds"] > 0

    step = Loop._timed_step

    def stopping(loop: Loop) -> None:
        step(loop)
        if not loop.state.resumed_from:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_timed_step", stopping)
        with pytest.raises(Interrupted):
            run(*short, COMPILED, to="stopped")
        _, stopped = run(*short, COMPILED, to="stopped")
    for name in ("adapter.safetensors", "metrics.jsonl", "predictions.parquet"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()

    programs = shapes(monkeypatch)
    capfd.readouterr()
    assert main(["eval", str(whole), "--format", "json"]) == 0
    metrics = json.loads((whole / "result.json").read_text())["metrics"]
    found = {row["metric"]: row["value"] for row in json.loads(capfd.readouterr().out)}
    assert found and all(value == metrics[name] for name, value in found.items())
    assert programs == []


def test_every_shape_has_one_program_and_evaluations_have_none(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = shapes(monkeypatch)
    sizes = ("training.per_device_train_batch_size=5", "training.max_steps=10", "training.eval_steps=1")
    result, _ = run("method=full", *sizes, COMPILED)
    assert result["status"] == "finished"
    assert len(set(programs)) == len(programs) > 2
    assert {rows for rows, _ in programs} == {5, 3}


@pytest.mark.parametrize(
    "setting",
    [(RECOMPUTED,), (RECOMPUTED, "hardware.precision=bf16_autocast", "training.gradient_accumulation_steps=2")],
    ids=["float32", "autocast-accumulation"],
)
def test_both_switches_together_are_close_to_none(
    setting: tuple[str, ...], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "BACKEND", "aot_eager")
    short = ("method=lora", "model.dropout=0.2", "method.lora_dropout=0.1", "training.max_steps=2")
    _, one = run(*short, *setting[1:], to="off")
    _, two = run(*short, *setting, COMPILED, to="on")
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-4, atol=1e-5)


def test_recomputing_asks_no_gradient_of_what_is_frozen_below(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    step = Loop._timed_step

    def watching(loop: Loop) -> None:
        embeddings = loop.model.get_submodule("bert.embeddings")
        handle = embeddings.register_forward_hook(lambda *a: asked.append(a[2].requires_grad))
        step(loop)
        handle.remove()

    monkeypatch.setattr(Loop, "_timed_step", watching)
    run("method=lora", RECOMPUTED, "training.max_steps=1")
    assert asked == [False]


@pytest.fixture
def without_checkpointing(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose classes in transformers cannot compute activations again."""
    from transformers import MPNetConfig, MPNetModel

    place = tmp_path / "mpnet"
    shutil.copytree(tiny_model, place)
    config = MPNetConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=40,
    )  # fmt: skip
    MPNetModel(config).save_pretrained(place)
    return place


def test_a_model_without_it_is_refused_before_the_run(
    tiny: list[str], without_checkpointing: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    setting = (f"model.path={without_checkpointing}", RECOMPUTED, "method=full", f"output_dir={tmp_path / 'run'}")
    assert main(["train", *merged(tiny, setting)]) == 2
    assert capfd.readouterr().err.splitlines() == [
        "lrexp: training.gradient_checkpointing: transformers has none for MPNetForSequenceClassification; "
        "set it to false."
    ]
    assert not (tmp_path / "run").exists()
    sweep = (*setting[:-1], "training.gradient_checkpointing=false,true", f"output_dir={tmp_path / 'sweep'}")
    assert main(["train", "-m", *merged(tiny, sweep)]) == 2
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("lacking", ["a C++ compiler", "Python's headers"])
def test_a_machine_that_cannot_compile_is_told_before_the_run(
    lacking: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise exc.InvalidCxxCompiler

    if lacking == "a C++ compiler":
        monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    else:
        monkeypatch.setattr(forward.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(InputError, match=re.escape(lacking)) as caught:
        run(COMPILED, to="refused")
    assert "\n" not in str(caught.value) and "training.torch_compile=false" in str(caught.value)
    assert not (tmp_path / "refused").exists()


def test_what_fails_in_the_compiler_is_a_row_that_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: object) -> None:
        raise OSError("g++ was killed")

    monkeypatch.setattr(forward, "BACKEND", backend)
    with pytest.raises(RunError, match=r"torch\.compile failed at step 1.*g\+\+ was killed") as caught:
        run(COMPILED, to="failed")
    assert "training.torch_compile=false" in str(caught.value) and len(str(caught.value).splitlines()) == 2


def test_the_callers_compiler_stays_as_it_was(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = getLogger("torch._inductor")

    def state() -> tuple[object, ...]:
        configs = dynamo.save_config(), inductor.save_config()
        return *configs, loud.level, list(warnings.filters), sys.getrecursionlimit()

    def raising(graph: torch.fx.GraphModule, inputs: object) -> Any:
        sys.setrecursionlimit(sys.getrecursionlimit() + 100)  # as the real compiler does
        return graph.forward

    monkeypatch.setattr(forward, "BACKEND", raising)
    before = state()
    run(COMPILED, "training.max_steps=1")
    assert state() == before
