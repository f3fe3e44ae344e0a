"""A finished run's folder gives the trained model again, to the bit, or says in one line why not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lrexp.engine import finished as folders
from lrexp.engine import reload
from lrexp.engine.folder import WEIGHTS
from lrexp.engine.identify import identify
from lrexp.laws.stopping import stop_after
from lrexp.layers.adapted import has_values
from lrexp.methods import catalog
from lrexp.methods.adapters.pissa import PiSSA
from lrexp.methods.base import Decisions
from lrexp.spec.errors import InputError, Interrupted
from lrexp.train import make_context, read_data


def again(folder: Path) -> nn.Module:
    """The model of the run in `folder`."""
    finished = folders.read(folder)
    run = identify(finished.spec, finished.facts)
    task = read_data(run)
    return reload.rebuild(run, task, reload.stored(finished, run), make_context(run, task))


def adapter(folder: Path, change: Any) -> None:
    """Changes the tensors that a run has kept."""
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("method", list(catalog.ENTRIES))
def test_every_tensor_is_that_of_the_run(method: str, run: Any) -> None:
    _, folder = run(f"method={method}")
    model = again(folder)
    kept = load_file(next(folder.glob("*.safetensors")))
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(torch.equal(own[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize(
    "setting",
    [(), ("method.svd=randomized",), ("method.use_rslora=true", "method.r=3"), ("hardware.precision=bf16",)],
    ids=["exact", "randomized", "rslora", "bf16"],
)
def test_the_remainder_follows_from_the_kept_start(
    setting: tuple[str, ...], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, torch.Tensor] = {}
    initialise = PiSSA.initialise

    def noted(self: Any, layer: Any, name: str, *more: Any) -> None:
        initialise(self, layer, name, *more)
        taken[name] = layer.base.weight  # the last call, after the one on shapes, is the run's

    monkeypatch.setattr(PiSSA, "initialise", noted)
    _, folder = run("method=pissa", *setting)
    monkeypatch.setattr(PiSSA, "triplets", lambda *_: pytest.fail("a new decomposition"))
    monkeypatch.setattr("lrexp.engine.reload.refuse_misfits", lambda found, *_: found)
    model = again(folder)
    assert len(taken) == 4
    for name, weight in taken.items():
        assert torch.equal(model.get_submodule(name).base.weight, weight)  # type: ignore[union-attr]


def name_of(tensors: dict[str, torch.Tensor], end: str) -> str:
    return next(name for name in tensors if name.endswith(end))


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("lora", lambda t: t.pop(name_of(t, "lora_B")), "adapter.safetensors: missing: bert.encoder"),
        (
            "pissa",
            lambda t: [t.pop(n) for n in list(t) if n.endswith("lora_A0")],
            " and 3 more; it is not the file of this spec",
        ),
        ("full", lambda t: t.pop("classifier.weight"), "model.safetensors: missing: classifier.weight;"),
        ("lora", lambda t: t.update(more=torch.ones(1)), "without a place in this model: more;"),
        ("lora", lambda t: t.update({name_of(t, "lora_A"): torch.ones(2, 2)}), "has the shape (2, 2), not (8, 16)"),
        ("lora", lambda t: t.update({"classifier.bias": torch.ones(3)}), "3 outputs, this data set needs 2"),
    ],
)
def test_a_tensor_out_of_place_is_said(method: str, change: Any, words: str, run: Any) -> None:
    _, folder = run(f"method={method}")
    adapter(folder, change)
    with pytest.raises(InputError) as told:
        again(folder)
    assert words in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_damaged_and_missing_files_are_said(run: Any, tmp_path: Path) -> None:
    _, folder = run("method=lora")
    file = folder / WEIGHTS[True]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged or cut short"):
        again(folder)
    file.unlink()
    with pytest.raises(InputError, match="missing"):
        again(folder)
    (folder / "result.json").unlink()
    with pytest.raises(InputError, match="has not finished"):
        again(folder)
    with pytest.raises(InputError, match="no run is there"):
        again(tmp_path)


def test_another_base_is_refused_for_an_adapter_and_marked_for_a_whole_model(
    run: Any, tiny_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    for method in ("lora", "full"):
        _, folder = run(f"method={method}", f"model.path={other}", to=method)
        tensors = load_file(other / "model.safetensors")
        tensors["embeddings.word_embeddings.weight"] += 1
        save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
        finished = folders.read(folder)
        found = identify(finished.spec, finished.facts)
        assert "model differs" in found.marks
        if method == "lora":
            with pytest.raises(InputError, match=r"not the model that .* was trained on"):
                reload.refuse_other_base(finished, found)
        else:
            reload.refuse_other_base(finished, found)


def test_a_model_that_has_moved_is_the_same_model(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "moved")
    _, folder = run("method=lora")
    finished = folders.read(folder)
    moved = replace(finished.spec, model={**finished.spec.model, "path": str(tmp_path / "moved")})
    reload.refuse_other_base(finished, identify(moved, finished.facts))


def test_a_resumed_run_takes_its_start_from_the_checkpoint(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            run("method=pissa")
    initialise = PiSSA.initialise

    def of_shapes_alone(self: Any, layer: Any, *more: Any) -> None:
        assert not has_values(layer.lora_A), "a new decomposition"
        initialise(self, layer, *more)

    monkeypatch.setattr(PiSSA, "initialise", of_shapes_alone)
    result, _ = run("method=pissa")
    assert (result["status"], result["costs"]["resumed_from"]) == ("finished", [3])


def test_damaged_decisions_are_said(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert folders.decisions(tmp_path, cpu) == Decisions()
    folders.keep_decisions(tmp_path, Decisions({"ranks": {"q": 3}}, {"kept": torch.arange(4.0)}))
    found = folders.decisions(tmp_path, cpu)
    assert found.values == {"ranks": {"q": 3}} and found.tensors["kept"].tolist() == [0, 1, 2, 3]
    (tmp_path / "decisions" / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"decisions: damaged or cut short \(state.json has changed\)"):
        folders.decisions(tmp_path, cpu)
