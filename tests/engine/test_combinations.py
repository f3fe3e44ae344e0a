"""What a method declares that it cannot be combined with ends before anything is written, in one line and with 2."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lrexp.cli import main
from lrexp.methods import catalog
from lrexp.methods.catalog import Supports
from tests.conftest import merged

Line = list[str]


def refused(line: Line, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["train", *line, f"output_dir={folder}"]) == 2
    assert not folder.exists()
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    return said


@pytest.mark.parametrize(
    ("lacking", "words", "said"),
    [
        ("accumulation", ("training.gradient_accumulation_steps=2",), "does not accumulate gradients"),
        ("bf16", ("hardware.precision=bf16",), "does not train bf16 weights"),
        (
            "per_layer",
            ("training.per_layer_updates=true", "training.max_grad_norm=null"),
            "needs all gradients of a step at once",
        ),
    ],
)
def test_what_a_method_does_not_support(
    lacking: str, words: tuple[str, ...], said: str, tiny: Line, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    entry = catalog.ENTRIES["full"]
    monkeypatch.setitem(catalog.ENTRIES, "full", replace(entry, supports=replace(Supports(), **{lacking: False})))
    assert said in refused(merged(tiny, ("method=full", *words)), tmp_path / "run", capsys)


@pytest.mark.parametrize("method", ["galore", "lora"])
def test_a_model_that_is_quantised_in_its_files(
    method: str, tiny: Line, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    line = merged(tiny, (f"method={method}", f"model.path={model}"))
    said = refused(line, tmp_path / "run", capsys)
    assert "quantised (gptq)" in said and "take the original" in said


def test_per_layer_updates_with_a_norm_of_all_gradients(
    tiny: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = merged(tiny, ("method=galore", "training.per_layer_updates=true"))
    assert "set training.max_grad_norm=null" in refused(line, tmp_path / "run", capsys)


def test_a_method_that_trains_nothing_takes_no_steps(
    tiny: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = merged(tiny, ("method=svd_compress", "method.repair=none"))
    assert "trains nothing here: set training.max_steps=0" in refused(line, tmp_path / "run", capsys)
