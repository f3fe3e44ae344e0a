"""Every shipped experiment: its header, its values, and two steps of a sample on tiny stand-ins."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from lrexp.methods import catalog
from lrexp.methods.catalog import families
from lrexp.spec import choices, yaml_text
from lrexp.spec.compose import compose
from lrexp.spec.run_spec import RunSpec

NAMES = choices.names("experiment")
PAPERS = [name for name in NAMES if not name.startswith("embedded_")]
WARM = ("mrpc", "rte", "stsb")  # tasks that start from the adapter of MNLI in the LoRA paper
# learning rate, epochs, micro-batch, micro-batches in a step, length: the authors' scripts, or PiSSA's table 10
SETTINGS = {
    "lora_roberta_base_mnli": (5e-4, 30, 16, 8, 512),
    "lora_roberta_base_sst2": (5e-4, 60, 16, 8, 512),
    "lora_roberta_base_mrpc": (4e-4, 30, 16, 8, 512),
    "lora_roberta_base_cola": (4e-4, 80, 32, 2, 512),
    "lora_roberta_base_qnli": (4e-4, 25, 32, 8, 512),
    "lora_roberta_base_qqp": (5e-4, 25, 16, 8, 512),
    "lora_roberta_base_rte": (5e-4, 80, 32, 8, 512),
    "lora_roberta_base_stsb": (4e-4, 40, 16, 8, 512),
    "lora_roberta_large_mnli": (3e-4, 10, 4, 8, 128),
    "lora_roberta_large_sst2": (4e-4, 10, 8, 8, 512),
    "lora_roberta_large_mrpc": (3e-4, 20, 4, 8, 512),
    "lora_roberta_large_cola": (3e-4, 20, 4, 8, 128),
    "lora_roberta_large_qnli": (2e-4, 10, 4, 8, 512),
    "lora_roberta_large_qqp": (3e-4, 20, 4, 8, 512),
    "lora_roberta_large_rte": (4e-4, 20, 8, 8, 512),
    "lora_roberta_large_stsb": (3e-4, 10, 4, 8, 128),
    "pissa_deberta_v3_base_mnli": (5e-4, 5, 16, 1, 128),
    "pissa_deberta_v3_base_sst2": (3e-5, 20, 16, 1, 128),
    "pissa_deberta_v3_base_mrpc": (2e-4, 20, 32, 1, 128),
    "pissa_deberta_v3_base_cola": (1e-4, 20, 16, 1, 128),
    "pissa_deberta_v3_base_qnli": (1e-4, 10, 32, 1, 128),
    "pissa_deberta_v3_base_qqp": (1e-4, 10, 16, 1, 128),
    "pissa_deberta_v3_base_rte": (1e-4, 50, 16, 1, 128),
    "pissa_deberta_v3_base_stsb": (3e-4, 20, 8, 1, 128),
}
MODELS = {"roberta_base": "roberta", "roberta_large": "roberta_large", "deberta_v3_base": "deberta_v3"}


def composed(*arguments: str) -> RunSpec:
    return compose(arguments, families())[0]


def parts(name: str) -> tuple[str, str, str]:
    """Method, model and data set in an experiment's name."""
    method, _, rest = name.partition("_")
    model, _, dataset = rest.rpartition("_")
    return method, model, dataset


def test_names_are_flat_and_none_is_forgotten() -> None:
    files = sorted((choices.folder() / "experiment").rglob("*"))
    assert [file.stem for file in files] == sorted(NAMES)
    assert all(file.suffix == ".yaml" and re.fullmatch(r"[a-z0-9_]+", file.stem) for file in files)
    assert set(PAPERS) == SETTINGS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_whence_how_much_and_how(name: str) -> None:
    text = (choices.folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert text[0] == "# @package _global_"
    header = choices.choice("experiment", name).header
    comments = [line for line in text[1:] if "#" in line]
    assert comments == [f"# {line}" for line in header] == text[1:5]
    what, paper, expected, run = header
    metric, value = re.fullmatch(r"Expected: (\w+) (0\.\d+)[, ].*", expected).groups()  # type: ignore[union-attr]
    assert metric == composed(f"experiment={name}").dataset["primary_metric"]
    assert re.match(rf"Run: lrexp train (-m )?experiment={name}( |$)", run)
    assert not re.match(r"Paper|Expected|Run", what)
    if name in PAPERS:
        reported = re.fullmatch(
            r"Paper: .+ 20\d\d, arXiv \d{4}\.\d{5}, table \d+, row .+, column .+: (\d\d\.\d+)\b.*", paper
        )
        assert reported and math.isclose(float(reported[1]) / 100, float(value))
        assert re.search(r"(median of 5 seeds|mean of 3 runs).*; unverified by our own run\. Doubts: ", expected)


@pytest.mark.parametrize("name", PAPERS)
def test_the_values_are_those_of_the_paper_or_script(name: str) -> None:
    method, model, dataset = parts(name)
    spec = composed(f"experiment={name}")
    assert spec.experiment == name and spec.seed == 0
    assert (spec.method["name"], spec.model["name"], spec.dataset["name"]) == (method, MODELS[model], dataset)
    training = spec.training
    rate, epochs, micro, accumulated, length = SETTINGS[name]
    assert (training.learning_rate, training.num_train_epochs) == (rate, epochs)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (micro, accumulated)
    assert spec.dataset["max_length"] == length
    assert (training.lr_scheduler_type, training.warmup_ratio, training.max_grad_norm) == ("linear", 0.06, 1.0)
    assert spec.optimizer["name"] == "adamw" and spec.method["r"] == 8 and not training.group_by_length
    if method == "lora":
        assert (spec.method["lora_alpha"], spec.method["lora_dropout"]) == (16, 0)
        assert spec.method["target_modules"] == ["q", "v"]
        assert (spec.optimizer["weight_decay"], training.selection) == (0.1, "best_on_test")
    else:
        assert spec.method["lora_alpha"] == (16 if dataset == "qnli" else 8)
        assert (spec.method["target_modules"], training.selection) == (["attention", "mlp"], "last")


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_states_its_choices_and_only_known_keys_in_range(name: str) -> None:
    from lrexp.engine.identify import build_method
    from lrexp.models import model_spec
    from lrexp.optim.build import make_optimizer
    from lrexp.tasks import build

    defaults = yaml_text.read_file(choices.folder() / "experiment" / f"{name}.yaml")["defaults"]
    assert {key for entry in defaults for key in entry} >= {f"override /{g}" for g in ("method", "model", "dataset")}
    spec = composed(f"experiment={name}")
    build_method(spec)
    make_optimizer(spec.optimizer, 1.0)
    build.check(spec.dataset)
    model_spec.read(spec.model)


@pytest.mark.parametrize("name", PAPERS)
def test_who_starts_from_mnli_says_so(name: str) -> None:
    method, _, dataset = parts(name)
    what, *_, run = choices.choice("experiment", name).header
    warm = method == "lora" and dataset in WARM
    assert ("published from the adapter of MNLI" in what) == ("init_from=RUN" in run) == warm
    if warm:
        mnli = name.replace(dataset, "mnli")
        assert f"init_from takes the folder of a run of {mnli}" in what
        theirs, ours = (composed(f"experiment={n}").method for n in (mnli, name))
        free = ("tuning", *catalog.load("lora").may_differ)
        assert all(theirs[key] == value for key, value in ours.items() if key not in free)


def test_the_adapters_of_deberta_have_the_parameters_of_the_table() -> None:
    width, inner, count, r = 768, 3072, 12, 8  # DeBERTa-v3-base
    assert count * r * (4 * (width + width) + 2 * (width + inner)) == 1_327_104  # 1.33 M in the paper


def test_the_warm_start_of_mrpc_from_a_run_of_mnli(tmp_path: Path) -> None:
    from lrexp.train import train
    from tests import stand_ins
    from tests.tasks.test_glue import copy

    model = stand_ins.save("roberta", tmp_path / "model")
    start: list[str] = []
    for task in ("mnli", "mrpc"):
        spec = composed(
            *(f"experiment=lora_roberta_base_{task}", f"model.path={model}", "hardware=cpu", "hardware.threads=1"),
            *(f"dataset.path={copy(tmp_path / f'data_{task}', task)}", "training.max_steps=1", *start),
        )
        result, folder = train(spec, str(tmp_path / task))
        start = [f"init_from={folder}"]
    assert (result["status"], result["evaluated_on"]) == ("finished", "validation")
    log = (folder / "log.txt").read_text()
    assert f"starts from the weights of {tmp_path / 'mnli'}, its head drawn anew, since the data are others" in log


@pytest.mark.parametrize("name", ["lora_roberta_base_mrpc", "pissa_deberta_v3_base_stsb"])
def test_a_sample_runs_two_steps_on_tiny_stand_ins(name: str, tmp_path: Path) -> None:
    from lrexp.train import train
    from tests import stand_ins
    from tests.tasks.test_glue import copy

    _, model, dataset = parts(name)
    spec = composed(
        f"experiment={name}",
        f"model.path={stand_ins.save(MODELS[model], tmp_path / 'model')}",
        f"dataset.path={copy(tmp_path / 'data', dataset)}",
        *("method.r=2", "training.max_steps=2", "training.logging_steps=1", "hardware=cpu", "hardware.threads=1"),
    )
    result, folder = train(spec, str(tmp_path / "run"))
    assert (result["status"], result["name"], result["evaluated_on"]) == ("finished", name, "validation")
    assert result["primary_metric"] in result["metrics"]
    assert ("selected on test" in result["marks"]) == name.startswith("lora")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) >= 2
