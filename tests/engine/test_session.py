"""A run that is stopped, killed, damaged or failing: what it leaves, what it says, and how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lrexp.cli import main
from lrexp.engine import evaluate, files
from lrexp.engine.loop import Loop
from lrexp.engine.session import Session
from lrexp.engine.stop import at_once
from lrexp.methods.full import Full
from lrexp.report.collect import read_run
from lrexp.spec.errors import Interrupted, RunError
from lrexp.tasks.classification import SequenceClassification
from tests.conftest import merged, session

BEST = ("training.eval_steps=2", "training.selection=best")
Line = list[str]


def same(one: Path, two: Path) -> bool:
    names = ["metrics.jsonl", "predictions.parquet", next(one.glob("*.safetensors")).name]
    metrics = [json.loads((f / "result.json").read_text())["metrics"] for f in (one, two)]
    return metrics[0] == metrics[1] and all((one / n).read_bytes() == (two / n).read_bytes() for n in names)


def signalled(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, number: int, times: int = 1) -> None:
    """Sends the signal at the start of the call number `at` of a function."""
    real, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counted)


MOMENTS = {
    "composition is over": ("lrexp.train", "identify", 1, False),
    "reading": ("lrexp.train", "read_data", 1, False),
    "preparation": ("lrexp.models.build", "base", 1, True),
    "a step": ("lrexp.engine.update", "clip", 4, True),
    "an evaluation": ("lrexp.engine.selection", "predict", 2, True),
    "writing a checkpoint": ("lrexp.engine.checkpoint", "_sha256", 3, True),
    "writing the best": ("lrexp.engine.selection", "checkpoint.write", 1, True),
    "the final evaluation": ("lrexp.engine.result", "predict", 1, True),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_with_130_one_line_and_a_checkpoint(
    moment: str, number: int, tiny: Line, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    module, name, at, has_begun = MOMENTS[moment]
    folder = tmp_path / "stopped"
    line = ["train", *merged(tiny, ("method=full", *BEST, f"output_dir={folder}"))]
    with monkeypatch.context() as patch:
        owner = __import__(module, fromlist=["x"])
        *path, name = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        signalled(patch, owner, name, at, number)
        assert main(line) == 130
    err = capfd.readouterr().err.splitlines()
    assert f"stopped by {signal.Signals(number).name}" in err[-1] and "Traceback" not in "".join(err)
    assert len([e for e in err if e.startswith("lrexp:")]) == 1 and len(err) <= 2
    assert folder.exists() == has_begun
    if has_begun:
        assert any((folder / "checkpoints").glob("step-*")) and read_run(folder).status == "interrupted"
    assert main(line) == 0
    assert same(run("method=full", *BEST, to="whole")[1], folder)


def test_a_signal_that_a_library_makes_an_error_of_is_still_a_signal() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGUSR1"), at_once():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        except BaseException:
            raise ImportError("cannot load module more than once") from None


def test_a_second_interrupt_ends_at_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        signalled(patch, evaluate, "in_order", 1, signal.SIGINT, times=2)
        with pytest.raises(KeyboardInterrupt):
            run(*BEST, to="stopped")
    assert same(run(*BEST, to="whole")[1], run(*BEST, to="stopped")[1])


def test_stopped_in_an_evaluation_and_killed_after_it_the_evaluation_is_recorded_once(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = ("training.eval_steps=2", "training.save_steps=null")
    with monkeypatch.context() as patch:
        signalled(patch, evaluate, "in_order", 1, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(*setting, to="stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_timed_step", lambda loop: (_ for _ in ()).throw(Died))  # after the repeated evaluation
        with pytest.raises(Died):
            run(*setting, to="stopped")
    result, folder = run(*setting, to="stopped")
    assert result["costs"]["resumed_from"] == [2, 2]
    assert same(run(*setting, to="whole")[1], folder)


class Died(BaseException):
    """Stands for kill -9: nothing that a dying process could do is done."""


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], bool]:
    """Lets the process die before its file operation number `at`; returns whether it has."""
    count, real = [0], {name: getattr(os, name) for name in ("replace", "fsync")}
    rmtree, unlink = shutil.rmtree, Path.unlink

    def counted(name: str) -> Callable[..., Any]:
        def operation(*arguments: Any, **keywords: Any) -> Any:
            count[0] += 1
            if count[0] >= at:
                raise Died
            return real[name](*arguments, **keywords)

        return operation

    def removing(remove: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *a, **k: None if count[0] >= at else remove(*a, **k)

    for name in real:
        monkeypatch.setattr(files.os, name, counted(name))
    monkeypatch.setattr(shutil, "rmtree", removing(rmtree))
    monkeypatch.setattr(Path, "unlink", removing(unlink))
    return lambda: count[0] >= at


@pytest.mark.parametrize("first", [1, 6, 11])
def test_dying_before_any_file_operation_leaves_a_run_that_goes_on(
    first: int, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = (*BEST, "training.max_steps=4")
    _, whole = run(*setting, to="whole")
    at, alive = first, False
    while not alive:
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        with monkeypatch.context() as patch:
            dead = dying(patch, at)
            with suppress(Died):
                run(*setting, to="killed")
            alive = not dead()
        _, folder = run(*setting, to="killed")
        assert same(whole, folder), f"died before operation {at}"
        assert len(list((folder / "checkpoints").glob("step-*"))) == 2
        assert not [p.name for place in (folder, folder / "checkpoints") for p in place.glob(".*")]
        at += 15


def test_damaged_checkpoints_cost_time_alone(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        signalled(patch, Loop, "_timed_step", 6, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(*BEST, to="stopped")
        _, whole = run(*BEST, to="whole")
    for place in (whole.parent / "stopped" / "checkpoints").glob("*/state.json"):
        place.write_bytes(place.read_bytes()[:-1])
    assert same(whole, run(*BEST, to="stopped")[1])


def test_a_checkpoint_that_does_not_fit_is_a_failed_row(tiny: Line, tmp_path: Path, run: Any) -> None:
    with pytest.raises(RunError):
        failing(tiny, tmp_path, "after_update", ValueError("no"), "training.save_steps=1")
    of = session(tiny, tmp_path, "method=lora", "training.save_steps=1")
    with pytest.raises(RunError, match=r"does not fit this run .*\n.*delete"):
        of.execute()


def failing(tiny: Line, folder: Path, hook: str, error: BaseException, *overrides: str) -> Any:
    class Failing(Full):
        pass

    calls = [0]

    def fail(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == (1 if hook == "prepare" else 3):
            raise error
        return getattr(Full, hook)(*arguments)

    setattr(Failing, hook, fail)
    of = session(tiny, folder, "method=full", *overrides)
    return Session(replace(of.run, method=Failing(None)), of.task, of.context, folder).execute()


@pytest.mark.parametrize(
    ("hook", "error", "step", "told"),
    [
        ("loss", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 3, "per_device_train_batch_size"),
        ("loss", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 3, "out of memory at step 3"),
        ("prepare", MemoryError(), None, "out of memory before the first step"),
        ("before_update", KeyError("layers.3"), 3, "KeyError at step 3: 'layers.3'"),
        ("after_update", AssertionError(), 3, "AssertionError at step 3: raise error"),
        ("after_update", OSError(28, "No space left on device"), 3, "the disk is full at step 3"),
    ],
    ids=["cuda memory", "cpu memory", "memory in prepare", "method", "mute", "disk"],
)
def test_a_failure_is_a_row(
    hook: str, error: Exception, step: int | None, told: str, tiny: Line, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=told.replace("(", r"\(")) as raised:
        failing(tiny, tmp_path, hook, error)
    found = read_run(tmp_path)
    assert len(str(raised.value).splitlines()) <= 3 and found.status == "failed" and found.result is not None
    assert found.result["failed_at_step"] == step and told in found.result["error"]
    assert (found.result["costs"]["peak_memory_bytes"] > 0) == (step is not None)
    assert (found.result["costs"]["prepare_seconds"] is None) == (step is None)
    assert "in fail\n" in (tmp_path / "log.txt").read_text()


def test_gradients_that_are_not_finite_end_as_a_row_and_are_tried_again(
    tiny: Line, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("lrexp.engine.update.clip", lambda parameters, limit: float("inf"))
        with pytest.raises(RunError, match="the gradient norm is inf at step 1"):
            run(to="failed")
    assert read_run(tmp_path / "failed").status == "failed"
    assert same(run(to="whole")[1], run(to="failed")[1])


def test_a_failing_evaluation_is_not_a_failing_step(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def metrics(task: Any, predictions: Any) -> Any:
        raise RunError("the loss of 3 items is not finite")

    monkeypatch.setattr(SequenceClassification, "metrics", metrics)
    with pytest.raises(RunError):
        run(to="failed")
    assert json.loads((tmp_path / "failed" / "result.json").read_text())["failed_at_step"] == 6


def test_again_makes_a_new_folder_and_goes_on_with_one_that_was_cut_short(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(to="run")[1] == run(to="run")[1] == tmp_path / "run"
    assert run(to="run", again=True)[1] == tmp_path / "run-2"
    (tmp_path / "run-3").mkdir()
    (tmp_path / "run-3" / "mine.txt").write_text("another's")
    with monkeypatch.context() as patch:
        signalled(patch, Loop, "_timed_step", 3, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(to="run", again=True)
    result, folder = run(to="run", again=True)
    assert folder == tmp_path / "run-4" and result["costs"]["resumed_from"] == [3]
    assert same(tmp_path / "run", folder)


def test_a_run_that_another_has_finished_meanwhile_is_left_alone(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import lrexp.train as entry

    real = entry.rehearse

    def slow(*arguments: Any) -> None:
        monkeypatch.setattr(entry, "rehearse", real)
        first.append(run(to="run")[0])
        real(*arguments)

    first: list[dict[str, Any]] = []
    monkeypatch.setattr(entry, "rehearse", slow)
    assert run(to="run")[0] == first[0]


def test_the_callers_process_stays_as_it_was(run: Any) -> None:
    torch.set_num_threads(2)
    before = torch.get_rng_state(), signal.getsignal(signal.SIGINT), torch.are_deterministic_algorithms_enabled()
    run("method.lora_dropout=0.5")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert signal.getsignal(signal.SIGINT) == before[1]
    assert torch.are_deterministic_algorithms_enabled() == before[2]


def test_no_steps_are_an_evaluation_of_the_start(run: Any) -> None:
    result, folder = run("training.max_steps=0")
    assert result["status"] == "finished" and (folder / "metrics.jsonl").read_bytes() == b""
    assert result["costs"]["step_seconds"] is None and result["costs"]["optimizer_state_bytes"] == 0
