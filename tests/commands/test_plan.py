"""`lrexp plan` prints one plan or a table of them, for a person and for a program, and writes nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from lrexp.cli import main

MLP = ["model=mlp", "hardware=cpu"]


def test_a_program_gets_bytes_and_what_was_assumed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *MLP, "method=full", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"memory", "trainable_parameters", "flops_per_step", "assumed"}
    parts = {"weights", "gradients", "optimizer", "method_state", "activations"}
    assert set(found["memory"]) == parts | {"preparation", "peak"}
    assert found["memory"]["peak"] == sum(found["memory"][part] for part in parts)
    assert found["trainable_parameters"] == 64 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10
    assert found["assumed"]["image_shape"] == [1, 8, 8] and found["assumed"]["precision"] == "float32"
    assert list(tmp_path.iterdir()) == []


def test_a_person_reads_units_and_what_was_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *MLP, "method=full", "training.gradient_accumulation_steps=2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("planned for 32 images of 1 x 8 x 8, 2 micro-batches a step, float32 on cpu\n")
    assert "trainable parameters  55.2 k" in text and "optimizer             442 kB" in text


def test_methods_stand_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *MLP, "method=full,intrinsic_dimension", "--format", "csv"]) == 0
    full, subspace = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (full["run"], subspace["run"]) == ("method=full", "method=intrinsic_dimension")
    assert int(subspace["optimizer"]) < int(full["optimizer"])
    assert main(["plan", "-m", *MLP, "method=full,intrinsic_dimension", "--json"]) == 0
    assert [one["run"] for one in json.loads(capsys.readouterr().out)] == ["method=full", "method=intrinsic_dimension"]


def test_the_largest_batch_is_named_or_none_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", *MLP, "method=full"]
    assert main([*line, "--fits", "2MB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_per_device_train_batch_size"] == found["assumed"]["per_device_train_batch_size"] > 1
    assert main([*line, "--fits", "1kB"]) == 0
    assert "largest batch         not even 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--fits", "much"], "--fits much: a size is needed"),
        (["nonsense"], "neither key=value nor a file"),
        (["method=lorra"], "lora"),
        (["--launcher", "pool"], "lrexp plan --help"),
    ],
)
def test_bad_input_is_one_line(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *MLP, *line]) == 2
    assert said in capsys.readouterr().err
