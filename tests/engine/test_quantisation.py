"""Runs over a base in fewer bits: trained, stopped, resumed, merged, exported, started from an adapter; and refused."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from lrexp.cli import main
from lrexp.engine import quantisation
from lrexp.laws.stopping import stop_after
from lrexp.layers import quantisers
from lrexp.layers.quantised import QuantisedLinear
from lrexp.linalg.random import ambient
from lrexp.methods.catalog import families
from lrexp.plan.plan import Plan, plan
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError, Interrupted
from tests.commands.test_export import exported, in_peft, inputs, logits, trained
from tests.conftest import merged, session
from tests.methods.test_laws import weights

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
LOUD = "training.learning_rate=3e-2"
CLOSE = 1e-5  # of logits of some tenths, that is rounding


@pytest.fixture(scope="session")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with layers whose inputs are multiples of 32, but for one."""
    place = tmp_path_factory.mktemp("wide")
    shutil.copytree(tiny_model, place, dirs_exist_ok=True)
    config = BertConfig.from_pretrained(tiny_model)
    config.hidden_size, config.intermediate_size, config.initializer_range = 32, 48, 0.2  # so that rounding is seen
    with ambient(0):
        BertModel(config).save_pretrained(place)
    return place


@pytest.fixture
def over(run: Any, wide: Path) -> Any:
    """Runs the tiny spec on the wide model."""
    return lambda *words, **keywords: run(f"model.path={wide}", LOUD, *words, **keywords)


@needs_torchao
@pytest.mark.parametrize(
    "words",
    [
        ("model.quantization=int4", "method=pissa", "method.r=4"),
        ("model.quantization=int8", "method=dora", "hardware.precision=bf16"),
        ("model.quantization=int4", "method=lora_ga", "method.r=4", "hardware.precision=bf16_autocast"),
        ("model.quantization=int8", "method=adalora", "training.gradient_checkpointing=true"),
    ],
    ids=lambda words: f"{words[1][7:]}-{words[0][-4:]}",
)
def test_stopped_and_resumed_equals_undisturbed(
    words: tuple[str, ...], over: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, undisturbed = over(*words, to="undisturbed")
    plain, other = over(*words[1:], to="plain")
    assert weights(other) != weights(undisturbed)
    assert whole["costs"]["total_parameters"] == plain["costs"]["total_parameters"]
    stop_after(monkeypatch, 1, 4)
    for _ in range(2):
        with pytest.raises(Interrupted):
            over(*words, to="stopped")
    result, resumed = over(*words, to="stopped")
    assert result["costs"]["resumed_from"] == [1, 4]
    assert weights(resumed) == weights(undisturbed)
    assert (resumed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert result["metrics"] == whole["metrics"]
    assert "torchao" in result["versions"]


@needs_torchao
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("method", ["lora", "sorsa", "dora"])
def test_merged_it_gives_the_run_s_logits(method: str, kind: str, over: Any, wide: Path, tmp_path: Path) -> None:
    _, folder = over(f"method={method}", f"model.quantization={kind}")
    about = exported(folder, "merged", tmp_path / "out")
    assert about["largest_logit_difference"] < CLOSE
    batch = inputs(wide)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    expected = trained(folder, batch)
    torch.testing.assert_close(logits(plain, batch), expected, rtol=0, atol=CLOSE)
    original = AutoModelForSequenceClassification.from_pretrained(wide, num_labels=2)
    assert (logits(original, batch) - expected).abs().max() > 1e-2
    assert main(["eval", str(tmp_path / "out")]) == 0  # a plain model, which nobody quantises again


def quantised_by_torchao(base: nn.Module, kind: str) -> nn.Module:
    """All linear layers but the head's, and those whose rows do not fit, by torchao's own hand."""
    import torchao.quantization as ao
    from torchao.quantization.quant_primitives import MappingType

    int4 = ao.IntxWeightOnlyConfig(torch.int4, ao.PerGroup(32), MappingType.ASYMMETRIC)  # type: ignore[attr-defined]
    config = int4 if kind == "int4" else ao.Int8WeightOnlyConfig(set_inductor_config=False)

    def is_meant(module: nn.Module, name: str) -> bool:
        fits = kind == "int8" or (isinstance(module, nn.Linear) and module.in_features % 32 == 0)
        return isinstance(module, nn.Linear) and fits and "classifier" not in name and "pooler" not in name

    base.requires_grad_(False)
    ao.quantize_(base, config, filter_fn=is_meant)
    return base


@needs_torchao
@pytest.mark.filterwarnings("ignore:.*get_apply_tensor_subclass:UserWarning")
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("method", ["lora", "svfit"])
def test_peft_over_a_base_that_torchao_quantised(
    method: str, kind: str, over: Any, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = over(f"method={method}", f"model.quantization={kind}", "method.target_modules=[q,up]")
    about = exported(folder, "peft", tmp_path / "out")
    assert about["largest_logit_difference"] < CLOSE
    load = AutoModelForSequenceClassification.from_pretrained

    def quantised(*arguments: Any, **keywords: Any) -> nn.Module:
        return quantised_by_torchao(load(*arguments, **keywords), kind)

    batch = inputs(wide)
    with monkeypatch.context() as patched:
        patched.setattr(AutoModelForSequenceClassification, "from_pretrained", quantised)
        found = logits(in_peft(wide, tmp_path / "out"), batch)
    expected = trained(folder, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE)
    assert (logits(in_peft(wide, tmp_path / "out"), batch) - expected).abs().max() > 10 * CLOSE  # over the original


@needs_torchao
def test_an_adapter_is_imported_trained_on_and_exported_again(over: Any, wide: Path, tmp_path: Path) -> None:
    words = ("method=lora", "method.target_modules=[q,up]")
    _, one = over(*words, to="one")
    exported(one, "peft", tmp_path / "adapter")
    line = (*words, "model.quantization=int8", f"init_from={tmp_path / 'adapter'}")
    _, two = over(*line, "training.max_steps=0", to="two")
    assert weights(two) == weights(one)
    _, three = over(*line, to="three")
    about = exported(three, "peft", tmp_path / "again")
    assert about["largest_logit_difference"] < CLOSE
    first, last = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again"))
    assert first.keys() == last.keys() and any(not torch.equal(first[name], last[name]) for name in first)
    with pytest.raises(InputError, match=r"its base has model\.quantization=int8, this one null"):
        over(*words, f"init_from={three}", to="four")
    over(*words, "model.quantization=int8", f"init_from={three}", to="five")


@needs_torchao
def test_the_remainder_of_a_start_is_no_base_of_others(
    over: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = over("method=pissa", "model.quantization=int8")
    capsys.readouterr()
    assert main(["export", str(folder), "--to", "peft", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert "take --to merged" in said and said.count("\n") == 0


@needs_torchao
def test_dora_starts_at_the_base_that_is_quantised(tiny: list[str], wide: Path, tmp_path: Path) -> None:
    done = session(tiny, tmp_path / "run", "method=dora", f"model.path={wide}", "model.quantization=int4")
    model = done.prepare()
    layers = [module for module in model.modules() if hasattr(module, "lora_magnitude")]
    assert layers
    for layer in layers:
        torch.testing.assert_close(layer.gain(), torch.ones_like(layer.gain()), rtol=0, atol=1e-6)  # type: ignore[operator]


@needs_torchao
def test_what_does_not_fit_is_said_and_all_else_is_quantised(tiny: list[str], wide: Path, tmp_path: Path) -> None:
    done = session(tiny, tmp_path / "run", "method=lora", f"model.path={wide}", "model.quantization=int4")
    done.execute()
    assert done.model is not None
    found = [name for name, module in done.model.named_modules() if isinstance(module, QuantisedLinear)]
    assert len(found) == 2 * 5 and not any("output.dense" in name and "attention" not in name for name in found)
    assert all("pooler" not in name and "classifier" not in name for name in found)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "int4: 10 linear layers are stored so; 2 stay as they are" in log


def planned(tiny: list[str], *words: str) -> Plan:
    return plan(compose(merged(tiny, words), families())[0])


def test_a_plan_counts_what_is_stored(tiny: list[str], wide: Path) -> None:
    words = ("method=lora", f"model.path={wide}")
    full, int8, int4 = (
        planned(tiny, *words, f"model.quantization={kind}").memory["weights"] for kind in ("null", "int8", "int4")
    )
    assert full is not None and int8 is not None and int4 is not None
    square, up, down = 2 * 4 * 32 * 32, 2 * 48 * 32, 2 * 32 * 48  # entries
    rows = 2 * (4 * 32 + 48 + 32)
    assert full - int8 == 3 * (square + up + down) - 4 * rows
    groups = (square + up) // 32
    assert full - int4 == 4 * (square + up) - ((square + up) // 2 + 5 * groups)


def test_nf4_is_planned_for_cuda_without_its_library(
    tiny: list[str], wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisers, "find_spec", lambda name: None)
    words = ("method=lora", f"model.path={wide}", "hardware=cuda")
    full, nf4 = (planned(tiny, *words, f"model.quantization={kind}").memory["weights"] for kind in ("null", "nf4"))
    entries, layers = 2 * (4 * 32 * 32 + 2 * 32 * 48), 2 * 6
    assert full is not None and nf4 is not None
    assert full - nf4 == 4 * entries - (entries // 2 + 4 * entries // 64 + layers * 64)


@needs_bitsandbytes
def test_nf4_without_cuda_s_kernels(
    over: Any, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # a rehearsal of what CUDA runs: the same code but for the kernel
    monkeypatch.setattr(quantisation, "refuse_device", lambda spec, section: None)
    words = ("method=lora", "model.quantization=nf4")
    result, undisturbed = over(*words, to="undisturbed")
    assert "bitsandbytes" in result["versions"]
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        over(*words, to="stopped")
    assert weights(over(*words, to="stopped")[1]) == weights(undisturbed)
    assert exported(undisturbed, "merged", tmp_path / "out")["largest_logit_difference"] < CLOSE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=full", "model.quantization=int8"), "not with method=full, but with lora, pissa"),
        (("method=salt", "model.quantization=int4"), "not with method=salt"),
        (
            ("method=lora", "model.quantization=int8", "hardware.precision=float64"),
            "not with hardware.precision=float64",
        ),
        (
            (
                "method=lora",
                "model.quantization=nf4",
            ),
            "trains on CUDA alone: take int8 or int4",
        ),
        (
            (
                "method=lora",
                "model.quantization=int4",
            ),
            "no frozen linear layer of BertForSequenceClassification can be stored so",
        ),
        (
            (
                "method=lora",
                "model.quantization=int3",
            ),
            "'int3' is not one of int8, int4, nf4",
        ),
    ],
)
def test_what_is_refused(
    words: tuple[str, ...], said: str, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(quantisers, "find_spec", lambda name: name)
    assert main(["train", *merged(tiny, words), f"output_dir={tmp_path / 'run'}"]) == 2
    assert not (tmp_path / "run").exists()
    found = capsys.readouterr().err.strip()
    assert said in found and found.count("\n") == 0


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("int4", "torchao"), ("nf4", "bitsandbytes")])
def test_without_the_library_a_line_says_how_to_install_it(
    kind: str, package: str, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(quantisers, "find_spec", lambda name: None)
    line = merged(tiny, ("method=lora", f"model.quantization={kind}", f"output_dir={tmp_path / 'run'}"))
    assert main(["train", *line]) == 2
    said = capsys.readouterr().err.strip()
    assert f'needs {package}, which is not there: pip install "lrexp[quantized]"' in said and said.count("\n") == 0


@needs_torchao
def test_a_table_shows_the_key_where_runs_differ(over: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("null", "int8"):
        over("method=lora", f"model.quantization={kind}", to=f"runs/{kind}")
    capsys.readouterr()
    assert main(["table", str(tmp_path / "runs"), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["keys"]["model.quantization"] for row in rows} == {None, "int8"}
