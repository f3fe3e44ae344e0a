"""Folders of own choices: what they mean, how they compose, and what is refused in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lrexp.methods import catalog
from lrexp.methods.catalog import families
from lrexp.spec import choices
from lrexp.spec.compose import compose, override
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec
from lrexp.spec.sweep import expand

FILES = {
    "method/lora_r64.yaml": "# LoRA, wide\nname: lora\nr: 64  # wide\nrank_pattern:\n  query: 32\n",
    "model/my_bert.yaml": "# Ours\nname: my_bert\nkind: encoder\npath: /models/mine\ndataset: reviews\n",
    "model/my_bert_dry.yaml": "name: my_bert\npath: /models/mine\ndropout: 0\n",
    "model/lonely.yaml": "name: lonely\nhub: a/b\n",
    "dataset/reviews.yaml": "name: reviews\nmodel: my_bert\nsource: local\npath: /data/reviews.csv\n"
    "text_columns:\n  - text\nlabel_column: stars  # str | - | one to five\n",
    "optimizer/adam_slow.yaml": "name: adamw\nbetas: [0.9, 0.9999]\neps: 1e-6\n",
    "training/brief.yaml": "max_steps: 3\n",
    "hardware/one.yaml": "device: cpu\nthreads: 1\n",
    "tracking/ours.yaml": "name: wandb\nproject: '#1'\n",
    "experiment/table_1.yaml": "# Table 1\ndefaults:\n  - override /method: lora_r64\n  - /model: my_bert\n"
    "  - _self_\nmethod:\n  lora_alpha: ${method.r}\n  rank_pattern:\n    encoder.layer.0: 4\nseed: 3\n",
}
Folder = Callable[..., Path]


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Folder]:
    """Writes files into a folder and puts it beside the shipped choices until the test ends."""
    with ExitStack() as stack:

        def put(files: dict[str, str], name: str = "own") -> Path:
            folder = write(tmp_path / name, files)
            stack.enter_context(choices.beside([folder]))
            return folder

        yield put


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def composed(*overrides: str) -> RunSpec:
    return compose(overrides, families())[0]


def test_a_setting_of_a_method_is_that_method_whole(beside: Folder) -> None:
    beside(FILES)
    shipped = composed("method=lora").method
    assert composed("method=lora_r64").method == shipped | {"r": 64, "rank_pattern": {"query": 32}}
    assert composed("method=lora_r64") == composed("method=lora", "method.r=64", "method.rank_pattern={query: 32}")
    assert composed("method=lora_r64", "method.lora_dropout=0.1").method["lora_dropout"] == 0.1


def test_sections_without_a_name_take_the_default_s_other_keys(beside: Folder) -> None:
    beside(FILES)
    assert composed("training=brief") == composed("training.max_steps=3")
    assert composed("hardware=one") == composed("hardware=cpu", "hardware.threads=1")
    assert composed("tracking=ours").tracking == composed("tracking=wandb", "tracking.project='#1'").tracking
    assert composed("optimizer=adam_slow").optimizer == {
        "name": "adamw", "betas": [0.9, 0.9999], "eps": 1e-6, "weight_decay": 0.0,
    }  # fmt: skip


def test_new_models_and_data_sets_find_their_partners(beside: Folder) -> None:
    beside(FILES)
    spec = composed("model=my_bert")
    assert spec.dataset == {
        "name": "reviews", "model": "my_bert", "source": "local", "path": "/data/reviews.csv",
        "text_columns": ["text"], "label_column": "stars",
    }  # fmt: skip
    assert composed("dataset=reviews").model == spec.model
    assert spec.model == {"name": "my_bert", "kind": "encoder", "path": "/models/mine", "dataset": "reviews"}
    assert composed("model=my_bert", "model.learning_rate_factor=2").training.learning_rate == 1e-3
    dry = composed("model=my_bert_dry", "dataset=reviews").model  # a setting of an own choice
    assert dry == spec.model | {"dropout": 0.0}
    with pytest.raises(InputError, match="model=lonely: names no dataset that goes with it; choose dataset="):
        composed("model=lonely")


def test_an_experiment_composes_own_and_shipped_choices(beside: Folder) -> None:
    beside(FILES)
    spec = composed("experiment=table_1")
    assert (spec.experiment, spec.seed, spec.model["name"], spec.dataset["name"]) == (
        "table_1", 3, "my_bert", "reviews",
    )  # fmt: skip
    assert (spec.method["name"], spec.method["r"], spec.method["lora_alpha"]) == ("lora", 64, 64.0)
    assert spec.method["rank_pattern"] == {"query": 32, "encoder.layer.0": 4}
    assert composed("experiment=table_1", "model=embedded").model["name"] == "embedded"


def test_a_frozen_spec_is_read_alike_with_and_without_the_folder(tmp_path: Path) -> None:
    with choices.beside([write(tmp_path / "own", FILES)]):
        spec = composed("experiment=table_1", "training=brief", "optimizer=adam_slow")
        text = spec.to_yaml()
        assert RunSpec.parse(text, "x")[0] == spec
    assert "reviews" not in choices.names("dataset")
    again = RunSpec.parse(text, "x")[0]
    assert again == spec and again.to_yaml() == text
    assert override(again, ["model.dropout=0.5", "dataset.max_length=9"])[0].model["dropout"] == 0.5


def test_names_are_known_while_the_folder_is_there(beside: Folder) -> None:
    beside(FILES)
    names = sorted([*(name for name in catalog.ENTRIES if name.startswith("lora")), "lora_r64"])
    assert expand(["method=glob(lora*)"]) == [[f"method={name}"] for name in names]
    found = choices.choice("method", "lora_r64")
    assert (found.summary, found.fields[0].type, found.fields[0].meaning) == ("LoRA, wide", "int >= 1", "wide")
    with pytest.raises(InputError, match="Did you mean 'lora_r64'"):
        composed("method=lora_r6")
    with pytest.raises(InputError, match=r"unknown key of method=lora_r64\. Did you mean 'r'"):
        composed("method=lora_r64", "method.rr=3")
    with pytest.raises(InputError, match=r"model\.dropout: 'x' is not a number"):
        composed("model=my_bert", "model.dropout=x")


def test_every_name_that_is_taken_can_be_typed(beside: Folder) -> None:
    names = ["7b", "my-bert", "a.b", "a-1.5", "true_x", "Gr", "_x", "1e3b", "0x1f", "a-", "list"]
    beside({f"method/{name}.yaml": "name: lora\nr: 5\n" for name in names})
    for name in names:
        assert composed(f"method={name}").method["r"] == 5, name
    runs = expand([f"method={','.join(names)}"])
    assert [composed(*run).method["r"] for run in runs] == [5] * len(names)


def test_another_folder_s_file_of_the_same_name_is_not_mistaken(tmp_path: Path) -> None:
    for r in (3, 5):
        with choices.beside([write(tmp_path / str(r), {"method/mine.yaml": f"name: lora\nr: {r}\n"})]):
            assert composed("method=mine").method["r"] == r
    with pytest.raises(InputError, match="unknown method"):
        composed("method=mine")


def test_what_a_new_model_and_data_set_leave_out_is_written_out(beside: Folder) -> None:
    from lrexp.engine.identify import whole

    beside(FILES)
    spec = whole(composed("model=lonely", "dataset=reviews", "dataset.max_length=1e2"))
    assert spec.model == {
        "name": "lonely", "kind": "encoder", "path": None, "hub": "a/b", "revision": None, "architecture": None,
        "config": {},
        "tokenizer": None, "tokenizer_path": None, "dataset": None,
        "head": ["pooler", "classifier"], "learning_rate_factor": 1.0, "quantization": None, "dropout": None,
    }  # fmt: skip
    assert (spec.dataset["text_columns"], spec.dataset["max_length"]) == (["text"], 100)
    assert whole(RunSpec.parse(spec.to_yaml(), "x")[0]) == spec
    with choices.beside([]):
        assert whole(RunSpec.parse(spec.to_yaml(), "x")[0]) == spec
    assert whole(composed()) == composed()  # the shipped ones are as their files say


def test_a_model_of_another_name_in_a_frozen_spec_is_its_owner_s_to_check() -> None:
    from lrexp.models import model_spec
    from lrexp.tasks import build

    mapping = composed().to_dict()
    mapping["model"] = {"name": "theirs", "path": "/x", "hed": ["score"]}
    mapping["dataset"] = {"name": "theirs", "source": "loccal"}
    spec = RunSpec.from_dict(mapping)
    with pytest.raises(InputError, match=r"model\.hed: unknown key. Did you mean 'head'"):
        model_spec.read(spec.model)
    with pytest.raises(InputError, match="'loccal' is not one of"):
        build.check(spec.dataset)


@pytest.mark.parametrize(
    ("section", "name", "words"),
    [
        ("model", "../../x", "cannot be a name"),
        ("dataset", "a/b", "cannot be a name"),
        ("method", "theirs", "A package that declares it may be missing here"),
        ("optimizer", "theirs", "unknown optimizer"),
    ],
)
def test_names_in_a_frozen_spec_that_are_refused(section: str, name: str, words: str) -> None:
    mapping = composed().to_dict()
    mapping[section]["name"] = name
    with pytest.raises(InputError) as error:
        RunSpec.from_dict(mapping, "spec.yaml: ")
    assert words in str(error.value) and str(error.value).startswith("spec.yaml: ")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be a run's name"):
        RunSpec.from_dict(composed().to_dict() | {"experiment": "../x"})


BAD = {
    "broken YAML": ("method/a.yaml", "name: lora\nr: [8\n", "damaged YAML"),
    "not text": ("method/a.yaml", "\0", "damaged YAML"),
    "no mapping": ("method/a.yaml", "- lora\n", "holds no keys"),
    "empty": ("method/a.yaml", "", "name is missing"),
    "no name": ("method/a.yaml", "r: 8\n", "name is missing"),
    "a method of its own": ("method/a.yaml", "name: a\nr: 8\n", "unknown method"),
    "slip in the name": ("method/a.yaml", "name: loora\n", "Did you mean 'lora'?"),
    "slip in a model's name": ("model/a.yaml", "name: brt\n", "(name: a makes it a new one)"),
    "unknown key": ("method/a.yaml", "name: lora\nrr: 8\n", "method.rr: unknown key of method=lora. Did you mean 'r'?"),
    "unknown key of training": ("training/a.yaml", "max_step: 8\n", "Did you mean 'max_steps'?"),
    "wrong type": ("method/a.yaml", "name: lora\nr: many\n", "method.r: 'many' is not a whole number"),
    "wrong type in a new model": ("model/a.yaml", "name: a\nhead: {b: 1}\n", "model.head"),
    "comment in two parts": ("method/a.yaml", "name: lora\nr: 8  # int | rank\n", "is not TYPE | PAPER | MEANING"),
    "comment without a type": ("method/a.yaml", "name: lora\nr: 8  # whole | - | rank\n", "'whole' is not a type"),
    "target": ("method/a.yaml", "name: lora\n_target_: os.system\n", "there is no _target_"),
    "nested target": ("experiment/a.yaml", "method:\n  r: {_target_: x}\n", "there is no _target_"),
    "resolver": ("model/a.yaml", "name: a\npath: ${oc.env:HOME}\n", "is refused"),
    "resolver among the defaults": ("experiment/a.yaml", "defaults:\n  - method: ${oc.env:HOME}\n", "is refused"),
    "Hydra's settings": ("experiment/a.yaml", "hydra:\n  searchpath: [file:///x]\n", "unknown key"),
    "Hydra's groups": ("experiment/a.yaml", "defaults:\n  - override /hydra/callbacks: a\n", "unknown group"),
    "partners": ("experiment/a.yaml", "partners: {}\n", "unknown key"),
    "based on another": ("experiment/a.yaml", "defaults: [embedded_lora]\n", "a line is `- override /GROUP: NAME`"),
    "choice as a value": ("experiment/a.yaml", "method: lora\n", "stands in the list of defaults"),
    "defaults of a method": ("method/a.yaml", "defaults: [lora]\nname: lora\n", "only an experiment"),
    "another place": ("method/a.yaml", "# @package hydra.run\nname: lora\n", "is not placed elsewhere"),
    "tag": ("method/a.yaml", "name: !!str lora\n", "has the tag"),
    "alias": ("method/a.yaml", "name: &a lora\n", "an anchor or an alias"),
    "name that cannot be typed": ("method/a b.yaml", "name: lora\n", "is named by letters"),
    "name of a constant": ("method/null.yaml", "name: lora\n", "is named by letters"),
    "name of a number": ("method/1e3.yaml", "name: lora\n", "is no number"),
    "other ending": ("method/a.yml", "name: lora\n", "ends in .yaml"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_wrong_is_named_in_one_line(what: str, beside: Folder, tmp_path: Path) -> None:
    name, text, words = BAD[what]
    with pytest.raises(InputError) as error:
        beside({name: text})
    assert words in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "own" / name))
    assert "\n" not in str(error.value)
    assert choices.names("method") == tuple(sorted(catalog.ENTRIES))  # nothing is half there


@pytest.mark.parametrize(
    ("files", "words"),
    [({}, "there is no such folder"), ({"methods/a.yaml": "name: lora\n"}, "did you mean 'method'?")],
)
def test_a_folder_that_is_none(files: dict[str, str], words: str, beside: Folder) -> None:
    with pytest.raises(InputError) as error:
        beside(files)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_stands_twice_is_refused_with_both_files(tmp_path: Path, beside: Folder) -> None:
    with pytest.raises(InputError) as error:
        beside({"method/lora.yaml": "name: lora\nr: 3\n"})
    assert str(tmp_path / "own/method/lora.yaml") in str(error.value)
    assert str(choices.folder() / "method/lora.yaml") in str(error.value)
    a, b = (write(tmp_path / name, {"model/x.yaml": "name: x\n"}) for name in "ab")
    with pytest.raises(InputError) as error, choices.beside([a, b]):
        pass
    assert all(str(folder / "model/x.yaml") in str(error.value) for folder in (a, b))
    with choices.beside([a, a]):  # one folder given twice is one
        assert "x" in choices.names("model")
