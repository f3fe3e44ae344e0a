"""Methods of other packages: the example of CONTRIBUTING.md as it stands there, and packages that are broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lrexp.cli import main
from lrexp.methods import catalog
from lrexp.spec import choices, packages
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError
from tests.conftest import merged

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
from lrexp.cli import main
from lrexp.spec import packages

lines, metadata = json.load(sys.stdin)
for line in lines[:2]:
    assert main(line) == 0
assert "torch" not in sys.modules
for line in lines[2:4]:
    assert main(line) == 0
open(metadata, "w").write("Name: mypackage\\nVersion: 1.1\\n")
packages.methods.cache_clear()
assert main(lines[4]) == 0
"""


def documented() -> list[str]:
    """The files that the section shows, in their order."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## A method in a package of its own")[2]
    return re.findall(r"^```\w+\n(.*?)^```$", section, re.M | re.S)


def install(site: Path, files: dict[str, str], package: str, points: dict[str, str], version: str | None) -> Path:
    """Sources and metadata as pip leaves them. Without a version there is no METADATA."""
    info = f"{package}-1.0.dist-info"
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    files = files | {f"{info}/entry_points.txt": f"[lrexp.methods]\n{lines}"}
    if version:
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    return site / info / "METADATA"


def test_the_documented_package_is_listed_shown_trained_and_swept(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pyproject, entry, module, yaml, _ = documented()
    about = tomllib.loads(pyproject)
    assert about["tool"]["setuptools"]["packages"] == ["mypackage", "mypackage.conf"]
    files = {
        "mypackage/__init__.py": "", "mypackage/catalog.py": entry, "mypackage/mymethod.py": module,
        "mypackage/conf/__init__.py": "", "mypackage/conf/method/mymethod.yaml": yaml,
    }  # fmt: skip
    site, project = tmp_path / "site", about["project"]
    metadata = install(site, files, project["name"], project["entry-points"]["lrexp.methods"], project["version"])
    run, sweep, again = (tmp_path / name for name in ("run", "sweep", "again"))
    words = merged(tiny, ("method=mymethod", "training.max_steps=3"))
    lines = [
        ["list", "methods", "--format=json"],
        ["show", "mymethod", "--format=json"],
        ["train", *words, "method.factor=0.25", f"output_dir={run}", "--format=json"],
        ["train", "-m", "--launcher=pool", *words, "seed=1", f"output_dir={sweep}"],
        ["train", str(run / "spec.yaml"), f"output_dir={again}"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps([lines, str(metadata)]), text=True, capture_output=True,
        timeout=120, env=os.environ | {"PYTHONPATH": str(site)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    decoder = json.JSONDecoder()
    listed, end = decoder.raw_decode(done.stdout)
    shown, _ = decoder.raw_decode(done.stdout[end:].lstrip())
    assert listed[-1] == {
        "name": "mymethod", "family": "adapters", "paper": "arXiv 0000.00000", "line": "LoRA whose rate is half",
        "accumulation": True, "bf16": True, "per_layer": True, "quantised_base": False,
    }  # fmt: skip
    assert {row["key"]: row["default"] for row in shown}["factor"] == 0.5
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (run, again))
    (swept,) = sweep.glob("mymethod-*/result.json")
    assert json.loads(swept.read_text())["status"] == first["status"] == "finished"
    assert (first["method"], first["versions"]["mypackage"], first["marks"]) == ("mymethod", "1.0", [])
    assert second["marks"] == ["versions differ: mypackage 1.0 -> 1.1"]
    assert second["metrics"] == first["metrics"]
    rates = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(row.get("train/learning_rate", 0.0) for row in rates) == 1e-2 * 0.25

    assert main(["train", str(run / "spec.yaml")]) == 2  # this process has no such package
    err = capsys.readouterr().err
    assert "unknown method" in err and "A package that declares it may be missing" in err and err.count("\n") == 1


def test_the_documented_laws_are_tried_on_the_documented_package(tmp_path: Path) -> None:
    """Some of the laws: those of settings, which are its own, and one of a run, with its own setting."""
    _, entry, module, yaml, laws = documented()
    files = {
        "mypackage/__init__.py": "", "mypackage/catalog.py": entry, "mypackage/mymethod.py": module,
        "mypackage/conf/__init__.py": "", "mypackage/conf/method/mymethod.yaml": yaml, "tests/test_laws.py": laws,
    }  # fmt: skip
    install(tmp_path, files, "mypackage", {"mymethod": "mypackage.catalog:ENTRY"}, "1.0")
    chosen = "same_seed or yaml_and or merged_equals or every_key"

    def tried() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, "tests"], text=True,
            capture_output=True, timeout=300, env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        )  # fmt: skip

    whole = tried()
    assert whole.returncode == 0 and "4 passed" in whole.stdout, whole.stdout
    path = tmp_path / "mypackage/mymethod.py"
    path.write_text(module.replace("return self.hyperparameters.factor", "return 0.5"), encoding="utf-8")
    idle = tried()
    assert idle.returncode == 1 and "factor changes nothing" in idle.stdout and "1 failed" in idle.stdout


ENTRY = (
    "from lrexp.methods.catalog import Entry\n"
    "ENTRY = Entry({name!r}, {module!r}, 'Mine', 'adapters', '-', 'mine', conf={conf!r})\n"
)
YAML = "# Mine\nname: {name}\nr: 8\ntuning: {{learning_rate: 1e-3}}\n"
Installer = Callable[..., str]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """Installs a package, whole but for what is given otherwise, into this process; returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(point: str = "mine", **changed: str | None) -> str:
        package = f"package_{abs(hash(tmp_path)) % 10**8}_{len(list(tmp_path.iterdir()))}"
        words = {"name": point, "module": f"{package}.module", "conf": f"{package}.conf"}
        files: dict[str, str | None] = {
            f"{package}/__init__.py": "",
            f"{package}/catalog.py": ENTRY.format(**words),
            f"{package}/module.py": "from lrexp.methods.adapters.lora import LoRA\nclass Mine(LoRA): pass\n",
            f"{package}/conf/method/{point}.yaml": YAML.format(**words),
        }
        files |= {f"{package}/{name}": text for name, text in changed.items() if name != "version"}
        kept = {name: text for name, text in files.items() if text is not None}
        version = changed.get("version", "2.0")
        install(tmp_path, kept, package, {point: f"{package}.catalog:ENTRY"}, version)
        packages.methods.cache_clear()
        return package

    yield put
    packages.methods.cache_clear()


def test_a_package_s_method_joins_ours(installed: Installer, capsys: pytest.CaptureFixture[str]) -> None:
    package = installed()
    assert choices.names("method") == tuple(sorted([*catalog.ENTRIES, "mine"]))
    assert list(catalog.entries()) == [*catalog.ENTRIES, "mine"]
    spec, _ = compose(["method=mine", "method.r=3"], catalog.families())
    assert spec.method == {"name": "mine", "r": 3, "tuning": {"learning_rate": 1e-3}}
    assert (spec.model["name"], spec.dataset["name"]) == ("embedded", "docmatch")
    assert catalog.load("mine").__name__ == "Mine"
    assert (catalog.versions("mine"), catalog.versions("lora")) == ({package: "2.0"}, {})
    assert capsys.readouterr().err == ""


def test_own_folders_know_a_package_s_method(installed: Installer, tmp_path: Path) -> None:
    installed()
    (tmp_path / "own/method").mkdir(parents=True)
    (tmp_path / "own/method/mine_r9.yaml").write_text("name: mine\nr: 9\n")
    with choices.beside([tmp_path / "own"]):
        assert compose(["method=mine_r9"], catalog.families())[0].method["r"] == 9
    (tmp_path / "own/method/mine.yaml").write_text("name: lora\n")
    with pytest.raises(InputError, match="method=mine is there twice"), choices.beside([tmp_path / "own"]):
        pass


BROKEN: dict[str, tuple[dict[str, str | None], str]] = {
    "import error": ({"catalog.py": "import no_such_module\n"}, "cannot be imported (ModuleNotFoundError"),
    "syntax error": ({"catalog.py": "ENTRY = (\n"}, "cannot be imported (SyntaxError"),
    "leaves": ({"catalog.py": "raise SystemExit('bye')\n"}, "cannot be imported (SystemExit: bye)"),
    "no attribute": ({"catalog.py": ""}, "cannot be imported (AttributeError"),
    "no entry": ({"catalog.py": "ENTRY = {'name': 'mine'}\n"}, "is no lrexp.methods.catalog.Entry"),
    "no texts": ({"catalog.py": ENTRY.format(name="mine", module=1, conf="x")}, "Entry of texts"),
    "other name": ({"catalog.py": ENTRY.format(name="yours", module="x", conf="x")}, "is named yours"),
    "no package of YAML": ({"catalog.py": ENTRY.format(name="mine", module="x", conf="nowhere.conf")}, "nowhere.conf"),
    "no YAML": ({"conf/method/mine.yaml": None, "conf/__init__.py": ""}, "mine.yaml: not readable"),
    "damaged YAML": ({"conf/method/mine.yaml": "name: [\n"}, "damaged YAML"),
    "YAML of another": ({"conf/method/mine.yaml": "name: lora\n"}, "has no line `name: mine`"),
    "YAML with code": ({"conf/method/mine.yaml": "name: mine\n_target_: x\n"}, "there is no _target_"),
    "wrong grammar": ({"conf/method/mine.yaml": "name: mine\nr: 8  # whole | - | x\n"}, "'whole' is not a type"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_package_is_left_out_in_one_line(
    what: str, installed: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, words = BROKEN[what]
    package = installed(**changed)
    assert choices.names("method") == tuple(sorted(catalog.ENTRIES))
    assert list(catalog.entries()) == list(catalog.ENTRIES)
    err = capsys.readouterr().err
    assert err.startswith(f"lrexp: method mine of {package} is left out: ") and err.count("\n") == 1
    assert words in err
    assert main(["list", "methods"]) == 0
    assert capsys.readouterr().err == ""  # it is said once


def test_ours_stays_and_two_of_one_name_are_left_out(installed: Installer, capsys: pytest.CaptureFixture[str]) -> None:
    installed("lora")
    assert catalog.entry("lora").module == "lrexp.methods.adapters.lora"
    assert "lrexp has a method of this name" in capsys.readouterr().err
    both = sorted([installed(), installed()])
    installed("other")
    assert choices.names("method") == tuple(sorted([*catalog.ENTRIES, "other"]))
    assert f"method mine of {both[0]} and {both[1]} is left out: more than one package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("import no_such_module\n", "cannot be imported (ModuleNotFoundError"),
        ("", "has no class Mine"),
        ("class Mine: pass\n", "has no class Mine of lrexp.methods.base.Method"),
        ("from lrexp.methods.base import Method as Mine\n", "with its Hyperparameters"),
    ],
)
def test_a_class_that_is_none_is_said_when_it_is_needed(module: str, words: str, installed: Installer) -> None:
    package = installed(**{"module.py": module})
    with pytest.raises(InputError) as error:
        catalog.load("mine")
    assert str(error.value).startswith(f"method=mine of {package}: ") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_package_without_metadata_has_no_known_version(installed: Installer) -> None:
    package = installed(version=None)
    assert catalog.versions("mine") == {package: "unknown"}
