from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lrexp.methods.catalog import families
from lrexp.spec import choices
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import HardwareSpec, RunSpec, TrackingSpec, TrainingSpec

PROVENANCE = {"versions": {"torch": "2.13.0", "lrexp": "0.1.0"}, "git": None, "data_fingerprint": "0123"}


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return compose(["method=pissa", "hardware=cpu", "training.learning_rate=1e-5"], families())[0]


def changed(spec: RunSpec, path: str, value: Any) -> RunSpec:
    mapping = spec.to_dict()
    *parents, last = path.split(".")
    target = mapping
    for parent in parents:
        target = target[parent]
    target[last] = value
    return RunSpec.from_dict(mapping)


@pytest.mark.parametrize("method", list(families()))
@pytest.mark.parametrize(
    "overrides", [[], ["method.tuning.learning_rate=1e-7", "model.path='a: [b], #c'", "tracking.run_name=yes"]]
)
def test_written_and_read_again_the_bytes_are_the_same(tmp_path: Path, method: str, overrides: list[str]) -> None:
    spec = compose([f"method={method}", *overrides], families())[0]
    text = spec.to_yaml(PROVENANCE)
    (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
    again, provenance = RunSpec.read(tmp_path / "spec.yaml")
    assert again == spec
    assert provenance == PROVENANCE
    assert again.to_yaml(provenance) == text
    assert text.startswith("format: 1\n")


def test_a_dict_makes_the_same_spec(spec: RunSpec) -> None:
    assert RunSpec.from_dict(spec.to_dict()) == spec


HASHED = {
    "seed": 1,
    "method.r": 4,
    "method.svd_niter": 9,
    "model.head": ["classifier"],
    "model.dropout": 0.5,
    "optimizer.eps": 1e-6,
    "hardware.device": "cuda",
    "hardware.threads": 1,
    "hardware.precision": "bf16",
    "model.quantization": "int8",
    "training.learning_rate": 2e-5,
    "training.max_steps": 7,
    "training.eval_steps": 5,
    "training.group_by_length": False,
    "training.gradient_checkpointing": True,
    "training.torch_compile": True,
    "training.drift": True,
}
UNHASHED = {
    "experiment": "embedded_lora",
    "tracking.project": "other",
    "tracking.run_name": "other",
    "training.save_steps": 7,
    "training.logging_steps": 7,
    "method.tuning.learning_rate": 1.0,
    "method.tuning.source": "elsewhere",
    "model.learning_rate_factor": 2.0,
    "model.path": "/elsewhere",
    "model.hub": "a/b",
    "model.revision": "main",
    "model.dataset": "mrpc",
    "dataset.model": "roberta",
}


@pytest.mark.parametrize(("path", "value"), HASHED.items())
def test_what_decides_the_numbers_changes_the_hash(spec: RunSpec, path: str, value: Any) -> None:
    assert changed(spec, path, value).spec_hash("m", "d") != spec.spec_hash("m", "d")


@pytest.mark.parametrize(("path", "value"), UNHASHED.items())
def test_what_does_not_leaves_the_hash(spec: RunSpec, path: str, value: Any) -> None:
    assert changed(spec, path, value) != spec
    assert changed(spec, path, value).spec_hash("m", "d") == spec.spec_hash("m", "d")


@pytest.mark.parametrize("key", ["tokenizer", "tokenizer_path"])
def test_the_place_of_a_tokenizer_leaves_the_hash(key: str) -> None:
    spec = compose(["model=llama_tiny", "method=full", "hardware=cpu"], families())[0]
    other = changed(spec, f"model.{key}", "some/where")
    assert other != spec and other.spec_hash("m", "d") == spec.spec_hash("m", "d")


@pytest.mark.parametrize(
    ("section", "key"), [("training", "drift"), ("hardware", "processes"), ("model", "quantization")]
)
def test_a_key_that_came_later_leaves_the_hash_as_it_was(
    section: str, key: str, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, mapping = spec.spec_hash("m", "d"), spec.to_dict()
    del mapping[section][key]
    monkeypatch.setattr(RunSpec, "to_dict", lambda self: mapping)
    assert spec.spec_hash("m", "d") == found


def test_models_and_data_count_by_their_content(spec: RunSpec) -> None:
    hashes = {spec.spec_hash(*prints) for prints in (("m", "d"), ("x", "d"), ("m", "x"), ("d", "m"))}
    assert len(hashes) == 4
    assert all(len(found) == 10 and int(found, 16) >= 0 for found in hashes)


def test_an_int_and_a_float_of_one_value_hash_alike(spec: RunSpec) -> None:
    assert changed(spec, "method.lora_alpha", 8).spec_hash("m", "d") == spec.spec_hash("m", "d")


def test_the_device_is_settled_before_a_run_is_hashed(spec: RunSpec) -> None:
    unsettled = replace(spec, hardware=replace(spec.hardware, device="auto"))
    with pytest.raises(AssertionError):
        unsettled.spec_hash("m", "d")
    assert unsettled.on("cpu").spec_hash("m", "d") == spec.spec_hash("m", "d")


@pytest.mark.parametrize(
    ("group", "cls"), [("training", TrainingSpec), ("hardware", HardwareSpec), ("tracking", TrackingSpec)]
)
def test_yaml_and_dataclass_are_in_step(group: str, cls: type) -> None:
    names = {field.name for field in fields(cls)} - {"name"}
    for choice in choices.choices(group):
        assert {field.key for field in choice.fields} == names


BAD_FILES = {
    "format: 2\nseed: 1\n": "was written by a newer lrexp",
    "seed: 1\n": "no 'format: 1'",
    "format: one\n": "no 'format: 1'",
    "format: true\n": "no 'format: 1'",
    "format: 1\n": "is missing",
    "format: 1\nprovenance: [1]\n": "provenance is not a mapping",
}


@pytest.mark.parametrize(("text", "words"), BAD_FILES.items())
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        RunSpec.read(path)
    assert words in str(error.value)
    assert str(error.value).startswith(str(path))


BAD_LINES = {
    ("  r: 8", "  r: many"): "method.r: 'many' is not a whole number",
    ("  r: 8", "  rank: 8"): "unknown key of method=pissa",
    ("  r: 8", "  r: ${oc.env:HOME}"): "is refused",
    ("  r: 8", "  _target_: os.system"): "there is no _target_",
    ("  r: 8", "  r: 8\n  r: 9"): "a second time",
    ("  name: pissa", "  name: pisa"): "Did you mean 'pissa'?",
    ("  name: pissa", "  nom: pissa"): "holds no name",
    ("seed: 42", "seed: 42\noutput_dir: /tmp/x"): "on the command line only",
    ("seed: 42", "sed: 42"): "unknown key. Did you mean 'seed'?",
    ("learning_rate: 1.0e-05", "learning_rate: .nan"): "not a finite number",
    ("warmup_ratio: 0.06", "warmup_ratio: 6"): "training.warmup_ratio is 6.0",
    ("  threads: 2", "  threads: 0"): "hardware.threads is 0",
    ("  threads: 2\n", ""): "hardware.threads is missing",
}


@pytest.mark.parametrize(("change", "words"), BAD_LINES.items())
def test_a_wrong_line_in_a_spec_is_named_with_its_file(
    tmp_path: Path, spec: RunSpec, change: tuple[str, str], words: str
) -> None:
    text = spec.to_yaml()
    assert change[0] in text
    path = tmp_path / "spec.yaml"
    path.write_text(text.replace(*change, 1))
    with pytest.raises(InputError) as error:
        RunSpec.read(path)
    assert words in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_spec_cut_short_is_refused(tmp_path: Path, spec: RunSpec, part: float) -> None:
    text = spec.to_yaml(PROVENANCE)
    path = tmp_path / "spec.yaml"
    path.write_text(text[: int(len(text) * part)])
    with pytest.raises(InputError):
        RunSpec.read(path)


def test_references_within_a_spec_are_filled(spec: RunSpec) -> None:
    mapping = spec.to_dict()
    mapping["method"]["lora_alpha"] = "${method.r}"
    assert RunSpec.from_dict(mapping).method["lora_alpha"] == 8.0


def test_a_spec_frozen_before_the_switches_reads_with_them_off(tmp_path: Path, spec: RunSpec) -> None:
    text = spec.to_yaml()
    older = text.replace("  gradient_checkpointing: false\n", "").replace("  torch_compile: false\n", "")
    assert len(older.splitlines()) == len(text.splitlines()) - 2
    (tmp_path / "spec.yaml").write_text(older)
    assert RunSpec.read(tmp_path / "spec.yaml")[0] == spec


def test_a_learning_rate_of_null_is_filled_in_a_file_too(spec: RunSpec) -> None:
    assert changed(spec, "training.learning_rate", None).training.learning_rate == 2.5e-3
    mapping = spec.to_dict()
    mapping["training"]["learning_rate"] = None
    del mapping["method"]["tuning"]
    with pytest.raises(InputError, match=r"there is no method\.tuning\.learning_rate"):
        RunSpec.from_dict(mapping)
