"""The doctor answers everywhere: without a network, a home, a cache, wandb or torch; never with a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lrexp.cli import main
from lrexp.commands import doctor
from lrexp.models import load
from lrexp.spec import choices
from lrexp.spec.errors import InputError
from lrexp.tasks.sources import stdlib
from tests.commands.hub_cache import put_model, use
from tests.tasks.test_glue import fill_cache

LOGINS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the person's caches nor their logins are looked at."""
    use(monkeypatch, tmp_path / "hub", tmp_path / "datasets")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in LOGINS:
        monkeypatch.delenv(name, raising=False)


def looked(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, dict[str, str]]:
    assert main(["doctor", "--format", "json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return {row["what"]: row for row in json.loads(out)}


def test_what_stands_in_every_answer(capsys: pytest.CaptureFixture[str]) -> None:
    found = looked(capsys)
    assert {row["state"] for row in found.values()} <= {"ok", "missing", "note"}
    expected = {"lrexp", "python", "torch", "transformers", "wandb", "processor", "memory", "bf16", "launchers"}
    expected |= {"dataset=docmatch", "hub cache", "lrexp cache", "outputs", "wandb login", "downloads"}
    expected |= {f"model={choice.name}" for choice in choices.choices("model") if choice.name != "decoder"}
    assert expected <= found.keys()
    assert not [row for row in found.values() if "cannot be looked at" in row["detail"]]
    assert all(row["what to do"] for row in found.values() if row["state"] == "missing")


@pytest.mark.parametrize("format", ["rich", "md", "csv"])
def test_every_format(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--format", format]) == 0
    assert "model=embedded" in capsys.readouterr().out


def test_no_network_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: asked.append(arguments) or [])
    looked(capsys)
    assert asked == []


def test_cached_models_and_data(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_model(tmp_path / "hub", "google-bert/bert-base-uncased", tiny_model)
    (put_model(tmp_path / "hub", "FacebookAI/roberta-base", tiny_model) / "model.safetensors").unlink()
    fill_cache(tmp_path / "datasets")
    found = looked(capsys)
    assert found["model=bert"]["state"] == "ok"
    assert found["model=roberta"]["state"] == "missing" and "*.safetensors" in found["model=roberta"]["detail"]
    assert found["model=roberta_large"]["what to do"] == "lrexp fetch model=roberta_large"
    assert found["data of nyu-mll/glue"]["state"] == "note"
    assert found["data of nyu-mll/glue"]["detail"] == "1 of 9 data sets cached: mrpc"


def test_tokenizers_of_models_that_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = load.TOKENIZERS["embedded"]
    found = looked(capsys)
    assert found["model=llama_tiny"]["state"] == "ok" and str(shipped) in found["model=llama_tiny"]["detail"]
    assert found["model=llama_60m"]["state"] == "missing" and "t5-base" in found["model=llama_60m"]["detail"]
    put_model(tmp_path / "hub", "google-t5/t5-base", shipped)
    assert looked(capsys)["model=llama_60m"]["state"] == "ok"


def test_logins_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = looked(capsys)
    assert found["wandb login"]["state"] == "note" and "HF_HUB_OFFLINE=1" in found["downloads"]["detail"]
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password a-key-of-mine\n")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = looked(capsys)
    assert found["wandb login"]["state"] == "ok" and found["downloads"]["state"] == "ok"
    assert "a-key-of-mine" not in str(found)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert looked(capsys)["wandb login"]["detail"] == "WANDB_MODE=offline"


def test_a_python_without_sources_fails_the_default_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> list[Any]:
        raise InputError("no sources")

    monkeypatch.setattr(stdlib, "modules", refuse)
    assert looked(capsys, code=1)["dataset=docmatch"]["state"] == "missing"
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("The default run does not work: dataset=docmatch\n")


def test_a_look_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Iterator[Any]:
        raise OSError("a strange machine\nwith two lines")
        yield

    monkeypatch.setitem(doctor.LOOKS, "memory", fail)
    row = looked(capsys)["memory"]
    assert row["state"] == "note" and row["detail"] == "cannot be looked at (OSError: a strange machine with two lines)"


def elsewhere(place: Path, *blocked: str, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The doctor in a process with nothing but these variables and without some packages."""
    code = f"import sys; {before}\nfor name in {blocked!r}: sys.modules[name] = None\n"
    code += "from lrexp.cli import main; sys.exit(main(['doctor', '--format', 'json']))"
    bare = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    line = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=place, env={**bare, **variables})


def test_without_home_caches_and_wandb(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "wandb").mkdir()  # what wandb leaves in a working folder is not the package
    below = str(tmp_path / "file" / "home")
    found = elsewhere(tmp_path, "wandb", HOME=below)
    assert (found.returncode, found.stderr) == (0, "")
    rows = {row["what"]: row for row in json.loads(found.stdout)}
    assert "not installed" in rows["wandb"]["detail"] and rows["wandb"]["what to do"].startswith("pip install 'wandb")
    assert (rows["hub cache"]["state"], rows["lrexp cache"]["state"]) == ("note", "note")
    assert rows["model=bert"]["state"] == "missing" and rows["outputs"]["state"] == "ok"
    assert not [row for row in rows.values() if "cannot be looked at" in row["detail"]]


def test_without_torch_and_working_folder(tmp_path: Path) -> None:
    before = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
    found = elsewhere(tmp_path, "torch", "transformers", before=before)
    assert (found.returncode, found.stderr) == (1, "")
    rows = {row["what"]: row for row in json.loads(found.stdout)}
    assert all(rows[name]["state"] == "missing" for name in ("torch", "transformers", "working folder"))
    assert rows["torch"]["what to do"].startswith("pip install 'torch")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder where even root may make nothing")
def test_in_a_read_only_home_without_network_caches_and_wandb(tmp_path: Path) -> None:
    before = "import socket; socket.socket.connect = socket.getaddrinfo = None"  # a call would be an error
    found = elsewhere(tmp_path, "wandb", before=before, HOME="/proc")
    assert (found.returncode, found.stderr) == (0, "")
    rows = {row["what"]: row for row in json.loads(found.stdout)}
    assert "cannot be written to" in rows["hub cache"]["detail"] and "none can be" in rows["lrexp cache"]["detail"]
    assert rows["outputs"]["state"] == "ok" and "wandb login" not in rows
    assert not [row for row in rows.values() if "cannot be looked at" in row["detail"]]
