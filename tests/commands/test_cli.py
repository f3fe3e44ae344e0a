import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lrexp
from lrexp import cli
from lrexp.spec.errors import InputError, Interrupted, RunError

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lrexp", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["list", "methods"],
        ["show", "method=pissa"],
        ["show", "method=pisa"],
        ["lst"],
        ["train", "--help"],
        ["train", "method=pisa"],
        ["train", "method.rr=3"],
        ["table", "--help"],
        ["plot", "--help"],
        ["status", "nowhere"],
        ["verify", "--help"],
    ],
)
def test_quick_answers_import_no_torch(arguments: list[str]) -> None:
    code = "import sys; from lrexp.cli import main; code = main(sys.argv[1:]); sys.exit('torch' in sys.modules or code)"
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert found.returncode in (0, 2), found.stderr  # 1: torch is there
    assert len(found.stderr.splitlines()) <= 2
    assert (found.stdout != "") == (found.returncode == 0)


@pytest.mark.parametrize("arguments", [["list", "methods"], ["show", "method=pissa"], ["list"]])
def test_the_catalogue_needs_no_hydra(arguments: list[str]) -> None:
    code = "import sys; from lrexp.cli import main; main(sys.argv[1:]); sys.exit('hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("method=x: unknown"), 2, "lrexp: method=x: unknown"),
        (RunError("step 3: out of memory"), 1, "lrexp: step 3: out of memory"),
        (Interrupted("checkpoint at step 3"), 130, "lrexp: checkpoint at step 3"),
        (KeyboardInterrupt(), 130, "lrexp: interrupted"),
        (KeyError("a\nb"), 1, "lrexp: internal error: KeyError: 'a\\nb' (LREXP_DEBUG=1 shows the traceback)"),
        (RuntimeError("a\nb"), 1, "lrexp: internal error: RuntimeError: a b (LREXP_DEBUG=1 shows the traceback)"),
    ],
)
def test_errors_become_a_line_and_a_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.delenv("LREXP_DEBUG", raising=False)
    assert cli.guarded(fail, []) == code
    assert capsys.readouterr().err == f"{words}\n"
    monkeypatch.setenv("LREXP_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.guarded(fail, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["--helpp"], "unknown command"),
        (["list", "metods"], "Did you mean 'methods'?"),
        (["list", "--fromat", "md"], "unrecognized arguments: --fromat"),
        (["list", "--format", "xml"], "invalid choice: 'xml'"),
        (["show"], "required: GROUP=NAME"),
        (["show", "method"], "write method=NAME with one of"),
        (["show", "method="], "the name is missing"),
        (["show", "method=pisa"], "Did you mean 'pissa'?"),
        (["show", "lorra"], "did you mean method=lora?"),
        (["show", "foo=bar"], "unknown group"),
    ],
)
def test_wrong_words_end_with_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert words in err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    assert set(re.findall(r"^    (\w+)  ", capsys.readouterr().out, re.M)) == set(cli.COMMANDS)


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert f"lrexp {name}" in capsys.readouterr().out
    assert callable(importlib.import_module(f"lrexp.commands.{name}").main)


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lrexp {lrexp.__version__}\n"
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == lrexp.__version__


def test_a_reader_who_leaves_is_no_error() -> None:
    line = f"{sys.executable} -m lrexp show method=lora --format json | true"
    found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert found.stderr == ""


def test_an_ascii_terminal_gets_its_table() -> None:
    found = command("show", "method=lora", PYTHONIOENCODING="ascii")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.isascii()


def test_threads_do_not_spin() -> None:
    code = "import lrexp.cli, os; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    bare = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=bare, timeout=60)
    assert found.stdout == "passive 0\n"
