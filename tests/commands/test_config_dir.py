"""--config-dir on the command line: listed, shown, trained, swept; and the frozen spec needs no folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrexp.cli import main


@pytest.fixture
def own(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Path:
    """A folder with a model, a data set, two settings of methods, a training and an experiment that joins them."""
    files = {
        "model/mine.yaml": f"# Mine\nname: mine\npath: {tiny_model}\ndataset: cats\n",
        "dataset/cats.yaml": f"name: cats\nsource: local\npath: {tiny_data}\ntext_columns: [sentence]\nmodel: mine\n"
        "max_length: 16\n",
        "method/lora_r2.yaml": "# LoRA of rank 2\nname: lora\nr: 2\n",
        "method/lora_r3.yaml": "name: lora\nr: 3\n",
        "training/brief.yaml": "max_steps: 3\nper_device_train_batch_size: 8\nlearning_rate: 1e-2\n",
        "hardware/one.yaml": "device: cpu\nthreads: 1\n",
        "experiment/paper.yaml": "# Row 1\ndefaults:\n  - override /method: lora_r2\n  - override /model: mine\n"
        "  - override /training: brief\n  - override /hardware: one\n",
    }
    for name, text in files.items():
        place = tmp_path / "own" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return tmp_path / "own"


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_trained_and_run_again_without_the_folder(own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert main(["train", "experiment=paper", f"output_dir={a}", "--config-dir", str(own)]) == 0
    found = result(a)
    assert (found["method"], found["model"], found["dataset"], found["name"]) == ("lora", "mine", "cats", "paper")
    assert main(["train", str(a / "spec.yaml"), f"output_dir={b}"]) == 0
    assert (result(b)["metrics"], result(b)["spec_hash"], result(b)["marks"]) == (
        found["metrics"], found["spec_hash"], [],
    )  # fmt: skip
    assert (a / "spec.yaml").read_bytes() == (b / "spec.yaml").read_bytes()
    assert (a / "adapter.safetensors").read_bytes() == (b / "adapter.safetensors").read_bytes()
    assert "dropout: null\n" in (a / "spec.yaml").read_text()  # keys that the file left out are in the spec
    capfd.readouterr()
    for words in ([str(a / "spec.yaml")], ["experiment=paper"]):  # the folder may be there too; it is one run
        assert main(["train", *words, f"output_dir={a}", f"--config-dir={own}"]) == 0
    for words in (["eval", str(a)], ["table", str(a)], ["eval", str(a), "dataset=cats"]):
        assert main([*words, "--config-dir", str(own), "--format", "json"]) == 0
    assert main(["eval", str(a), "dataset=cats"]) == 2
    assert "unknown dataset" in capfd.readouterr().err


def test_a_sweep_over_own_choices(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--config-dir", str(own), "train", "-m", "--launcher", "pool", f"output_dir={tmp_path / 'sweep'}"]
    assert main([*line, "experiment=paper", "method=glob(lora_r*)", "--dry-run", "--format=json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["method=lora_r2", "method=lora_r3"]
    assert main([*line, "experiment=paper", "method=glob(lora_r3)"]) == 0  # its worker has the frozen spec alone
    (folder,) = (tmp_path / "sweep").iterdir()
    assert (result(folder)["status"], result(folder)["model"]) == ("finished", "mine")


def test_listed_and_shown(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*words: str) -> list[dict]:
        assert main([*words, "--format", "json", "--config-dir", str(own)]) == 0
        return json.loads(capsys.readouterr().out)

    listed = {row["name"]: row for row in rows("list", "methods")}
    assert listed["lora_r2"] == listed["lora"] | {"name": "lora_r2", "line": "LoRA of rank 2"}
    assert listed["lora_r3"]["line"] == "a setting of lora"
    assert {row["name"]: row["default dataset"] for row in rows("list", "models")}["mine"] == "cats"
    shown = {row["key"]: row for row in rows("show", "lora_r2")}
    assert (shown["r"]["default"], shown["r"]["paper"], shown["r"]["range"]) == (2, "8", ">= 1")
    assert "tuning.learning_rate" in shown
    assert main(["show", "method=lora_r2", "--config-dir", str(own)]) == 0
    assert "method=lora_r2, a setting of method=lora" in capsys.readouterr().out
    assert main(["show", "lora_r2"]) == 2  # not there without the folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--config-dir"], "a folder is missing"),
        (["list", "--config-dir", "--format", "md"], "a folder is missing"),
        (["list", "--config-dir="], "a folder is missing"),
        (["list", "--config-dir", "/no/such"], "there is no such folder"),
        (["list", "--config-dir", __file__], "a file, not a folder"),
        (["train", "--config-dir", str(Path(__file__).parent)], "none of the folders method/"),
    ],
)
def test_wrong_folders_end_with_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err and (out, len(err.splitlines())) == ("", 1)


@pytest.mark.parametrize("words", [["list"], ["show", "lora_r2"], ["train", "method=lora_r"], ["train", "--help"]])
def test_own_choices_bring_no_torch(words: list[str], own: Path) -> None:
    code = "import sys; from lrexp.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    line = [sys.executable, "-c", code, *words, "--config-dir", str(own)]
    found = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr


def test_a_notebook_takes_folders_too(own: Path) -> None:
    import lrexp

    assert lrexp.compose(["method=lora_r2"], config_dirs=[own]).method["r"] == 2
    with pytest.raises(lrexp.LrexpError, match="unknown method"):
        lrexp.compose(["method=lora_r2"])
