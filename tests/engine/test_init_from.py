"""A run that starts from another's weights: the same numbers before its first step, the same bytes after a stop."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lrexp.engine.identify import identify
from lrexp.laws.probe import other_values
from lrexp.laws.stopping import stop_after
from lrexp.methods import catalog
from lrexp.methods.catalog import families
from lrexp.spec import choices
from lrexp.spec.choice import Field
from lrexp.spec.compose import compose
from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError, Interrupted
from lrexp.spec.run_spec import RunSpec
from tests.conftest import merged
from tests.methods.test_laws import weights

METHODS = list(catalog.ENTRIES)


def of_the_end(result: dict[str, Any]) -> dict[str, Any]:
    """Metrics without those from before training, which are another base's: that of another seed's head."""
    return {name: value for name, value in result["metrics"].items() if not name.startswith(("base_", "prepared_"))}


@pytest.fixture
def other_data(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny data with one row less."""
    place = tmp_path / "other_data"
    shutil.copytree(tiny_data, place)
    lines = (place / "train.jsonl").read_text().splitlines(keepends=True)
    (place / "train.jsonl").write_text("".join(lines[:-1]))
    return place


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_other_run_before_its_first_step(method: str, run: Any) -> None:
    first, one = run(f"method={method}", to="one")
    second, two = run(f"method={method}", f"init_from={one}", "seed=9", "training.max_steps=0", to="two")
    assert of_the_end(second) == of_the_end(first)
    assert weights(two) == weights(one)
    _, three = run(f"method={method}", f"init_from={one}", "seed=9", to="three")
    assert weights(three) != weights(one)


@pytest.mark.parametrize("method", METHODS)
def test_on_other_data_its_head_is_new(method: str, run: Any, other_data: Path) -> None:
    _, one = run(f"method={method}", to="one")
    words = (f"method={method}", f"dataset.path={other_data}", "training.max_steps=0", "seed=9")
    _, two = run(*words, f"init_from={one}", to="two")
    _, fresh = run(*words, to="fresh")
    theirs, ours, drawn = (load_file(next(folder.glob("*.safetensors"))) for folder in (one, two, fresh))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        in_head = name.startswith(("classifier.", "bert.pooler."))
        assert tensor.equal(drawn[name] if in_head else theirs[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_it_ends_with_the_same_bytes(
    method: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one = run(f"method={method}", to="one")
    words = (f"method={method}", f"init_from={one}", "seed=9")
    _, whole = run(*words, to="whole")
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        run(*words, to="stopped")
    result, stopped = run(*words, to="stopped")
    assert result["costs"]["resumed_from"] == [3]
    assert weights(stopped) == weights(whole)
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_hash_is_of_the_weights_not_of_their_place(run: Any, tiny: list[str], tmp_path: Path) -> None:
    _, one = run("method=lora", to="one")
    _, other = run("method=lora", "seed=3", to="other")
    shutil.copytree(one, tmp_path / "moved")
    places = (one, tmp_path / "moved", other, None)
    facts = [identify(session_spec(tiny, f"init_from={place or 'null'}")).facts for place in places]
    hashes = [fact["spec_hash"] for fact in facts]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    _, two = run("method=lora", f"init_from={one}", to="two")
    _, kept = RunSpec.read(two / "spec.yaml")
    assert kept["init_fingerprint"] == facts[0]["init_fingerprint"]
    assert kept["init_spec_hash"] == RunSpec.read(one / "spec.yaml")[1]["spec_hash"]
    then = {**kept, "init_fingerprint": facts[2]["init_fingerprint"]}
    marks = identify(session_spec(tiny, f"init_from={one}"), then).marks
    assert marks == [
        "the run that it starts from differs",
        f"starts from local-bert, seed 42 ({kept['init_spec_hash']})",
    ]
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert [result["init_fingerprint"] for result in results] == [None, kept["init_fingerprint"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("method=pissa",), "that run's method is lora, this one's pissa. To start from its outcome: lrexp export "),
        (("method.r=4",), "the run has r 8, this one 4: they must agree"),
        (("method.lora_alpha=32",), "the run has lora_alpha 16, this one 32: they must agree"),
        (("method.use_rslora=true",), "the run has use_rslora false, this one true: they must agree"),
        (
            ("method.target_modules=[q,k,v]", "method.alpha_pattern={q: 2}"),
            "the run has target_modules [q, v], this one [q, k, v]; alpha_pattern {}, this one {q: 2.0}: they must",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run_begins(
    words: tuple[str, ...], told: str, run: Any, tmp_path: Path
) -> None:
    _, one = run("method=lora", to="one")
    with pytest.raises(InputError) as error:
        run(f"init_from={one}", *words, to="two")
    assert told in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "two").exists()


def other_value(method: str, field: Field) -> Any:
    """Another value of the key that is in range."""
    for value in other_values(field.default, field.annotation) if not field.key.startswith(("name", "tuning")) else ():
        with suppress(InputError):
            from_mapping(catalog.load(method).Hyperparameters, {field.key: value}, "method")
            return value
    return None


def in_words(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{item}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("method", [name for name in METHODS if catalog.load(name).may_differ])
def test_what_decides_a_fresh_start_or_training_alone_may_differ(method: str, run: Any) -> None:
    values = {field.key: other_value(method, field) for field in choices.choice("method", method).fields}
    values = {key: values[key] for key in catalog.load(method).may_differ}
    words = [f"method.{key}={in_words(value)}" for key, value in values.items()]
    first, one = run(f"method={method}", to="one")
    second, two = run(f"method={method}", *words, f"init_from={one}", "training.max_steps=0", to="two")
    assert of_the_end(second) == of_the_end(first) and weights(two) == weights(one)


def test_settings_are_compared_as_values_not_as_they_are_written(run: Any, tmp_path: Path) -> None:
    _, one = run("method=lora", to="one")
    text = (one / "spec.yaml").read_text()
    (one / "spec.yaml").write_text(
        text.replace("lora_alpha: 16.0", "lora_alpha: 16").replace("  conv_layout: peft\n", "")
    )
    assert (one / "spec.yaml").read_text() != text
    run("method=lora", f"init_from={one}", to="two")


def test_a_home_is_expanded_and_a_frozen_spec_is_told_how_to_go_on(
    run: Any, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("method=lora", to="one")
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = session_spec(tiny, "method=lora", "init_from=~/one")
    then = identify(spec).facts
    (tmp_path / "one").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"one: no run is there .* wrote\.$"):
        identify(spec)
    with pytest.raises(InputError, match=r"one: no run is there .* wrote\. Give init_from=DIR, where it lies now\.$"):
        identify(spec, then)


def test_what_is_no_finished_run_is_refused(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"init_from=.*nowhere: no run is there"):
        run(f"init_from={tmp_path / 'nowhere'}", to="two")
    _, one = run("method=lora", to="one")
    (one / "result.json").unlink()
    with pytest.raises(InputError, match=r"init_from=.*one: the run there has not finished"):
        run(f"init_from={one}", to="two")


def test_damaged_weights_are_refused_before_the_run_begins(run: Any, tmp_path: Path) -> None:
    _, one = run("method=lora", to="one")
    file = one / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"adapter\.safetensors: damaged or cut short"):
        run("method=lora", f"init_from={one}", to="two")
    file.unlink()
    with pytest.raises(InputError, match=r"adapter\.safetensors: missing"):
        run("method=lora", f"init_from={one}", to="two")
    assert not (tmp_path / "two").exists()


def test_another_base_is_refused(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    _, one = run("method=lora", f"model.path={other}", to="one")
    with pytest.raises(InputError, match="its base is another model"):
        run("method=lora", f"init_from={one}", to="two")


def session_spec(tiny: list[str], *overrides: str) -> RunSpec:
    return compose(merged(tiny, overrides), families())[0]
