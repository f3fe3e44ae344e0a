"""Every shipped experiment: its header and its values."""

from __future__ import annotations

import math
import re

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
# GaLore's table 2 and script: rank, steps, micro-batch; SLTrain's: rank, share, alpha, steps, micro-batch
GALORE = {
    "60m": (128, 10000, 256),
    "130m": (256, 20000, 256),
    "350m": (256, 60000, 128),
    "1b": (512, 100000, 32),
    "7b": (1024, 150000, 16),
}
SLTRAIN = {
    "60m": (128, 0.03, 32, 11000, 256), "130m": (256, 0.03, 16, 22000, 256), "350m": (256, 0.03, 16, 65000, 128),
    "1b": (512, 0.03, 8, 140000, 32), "7b": (1024, 0.05, 8, 150000, 8),
}  # fmt: skip
GLUE = {"cola": "matthews", "stsb": "pearson", "mrpc": "f1"}  # what GaLore's table 4 shows where it isn't accuracy
MATH = {  # rank, alpha, rate, sequences in a step, length, rows
    "pissa": (128, 128, 2e-5, 128, 512, 100_000),
    "eva": (16, 1, 5e-4, 8, 512, None),
    "lora_ga": (8, 16, 2e-5, 32, 1024, 100_000),
}
OTHERS = {
    "full_llama_60m_c4", "svd_llm_llama_7b_wikitext2", "intrinsic_dimension_mlp_mnist",
    "intrinsic_dimension_lenet_mnist", "said_roberta_base_mrpc",
}  # fmt: skip
UNSAID = {"instruction": "exact_match", "image_classification": "accuracy"}  # primary metrics that are not named
FINE_TUNING = sorted(SETTINGS)
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
    shown = {f"galore_llama_{size}_c4" for size in GALORE} | {f"sltrain_llama_{size}_c4" for size in SLTRAIN}
    shown |= {f"galore_roberta_base_{task}" for task in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")}
    shown |= {f"{method}_llama2_7b_metamath" for method in MATH}
    assert set(PAPERS) == SETTINGS.keys() | shown | OTHERS


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_whence_how_much_and_how(name: str) -> None:
    text = (choices.folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert text[0] == "# @package _global_"
    header = choices.choice("experiment", name).header
    comments = [line for line in text[1:] if "#" in line]
    assert comments == [f"# {line}" for line in header] == text[1:5]
    what, paper, expected, run = header
    metric, value = re.fullmatch(r"Expected: (\w+) (\d+\.\d+)[, ].*", expected).groups()  # type: ignore[union-attr]
    data = composed(f"experiment={name}").dataset
    assert metric == (data["primary_metric"] or UNSAID[data["task"]])
    assert re.match(rf"Run: lrexp train (-m )?experiment={name}( |$)", run)
    assert not re.match(r"Paper|Expected|Run", what)
    if name in PAPERS:
        reported = re.fullmatch(
            r"Paper: .+ 20\d\d, arXiv \d{4}\.\d{5}, table \d+, row .+, column .+: (\d\d\.\d+|7\.\d+)\b.*", paper
        )
        percent = 1 if metric == "perplexity" else 100
        assert reported and math.isclose(float(reported[1]) / percent, float(value))
        runs = r"median of 5 seeds|mean of 3 runs|number of runs not stated|best of the rates"
        assert re.search(rf"({runs})[,;].*unverified by our own run\. Doubts: ", expected)


@pytest.mark.parametrize("name", FINE_TUNING)
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


def sequences_in_a_step(spec: RunSpec) -> int:
    return spec.training.per_device_train_batch_size * spec.training.gradient_accumulation_steps


@pytest.mark.parametrize("name", [name for name in PAPERS if name.endswith("_c4")])
def test_pretraining_on_c4_is_as_in_the_scripts(name: str) -> None:
    method, _, size, _ = name.split("_")
    spec, script = composed(f"experiment={name}"), {"galore": GALORE, "sltrain": SLTRAIN}.get(method, {})
    assert (spec.method["name"], spec.model["name"], spec.dataset["name"]) == (method, f"llama_{size}", "c4")
    training, hardware, data = spec.training, spec.hardware, spec.dataset
    assert (data["shuffle_seed"], data["packing"], data["max_length"], data["max_eval_tokens"]) == (
        42,
        False,
        256,
        10_000_000,
    )
    assert (training.lr_scheduler_type, training.min_lr_ratio, training.max_grad_norm) == ("cosine", 0.1, None)
    assert (hardware.precision, sequences_in_a_step(spec), training.selection) == ("bf16", 512, "last")
    assert (training.group_by_length, spec.seed, spec.optimizer["weight_decay"]) == (False, 0, 0)
    is_7b = size == "7b"
    usual = {"galore": "adamw_hf"}.get(method, "adamw")
    assert (spec.optimizer["name"], training.per_layer_updates) == ("adamw8bit" if is_7b else usual, is_7b)
    rate = (5e-3 if is_7b else 1e-2) if method == "galore" else 3e-3
    assert training.learning_rate == rate
    assert training.warmup_steps == {"1b": 10000}.get(size, training.max_steps // 10)  # type: ignore[operator]
    values = [spec.method.get(key) for key in ("rank", "sp_ratio", "lora_alpha") if key in spec.method]
    if script:
        assert (*values, training.max_steps, training.per_device_train_batch_size) == script[size]
    if method == "galore":
        assert (spec.method["update_proj_gap"], spec.method["scale"]) == (500 if is_7b else 200, 0.25)
        assert spec.optimizer["eps"] == (1e-8 if is_7b else 1e-6)


@pytest.mark.parametrize("name", [name for name in PAPERS if name.startswith("galore_roberta")])
def test_galore_on_glue_is_as_in_its_table_of_settings(name: str) -> None:
    task = name.rpartition("_")[2]
    spec, training = composed(f"experiment={name}"), composed(f"experiment={name}").training
    method, data = spec.method, spec.dataset
    assert (spec.model["name"], data["name"], spec.optimizer["name"]) == ("roberta", task, "adamw_hf")
    assert (method["rank"], method["scale"], method["update_proj_gap"]) == (4, 4.0, 500)
    assert training.learning_rate == (3e-5 if task in ("mrpc", "cola") else 1e-5)
    assert sequences_in_a_step(spec) == (32 if task == "cola" else 16)
    assert (training.num_train_epochs, data["max_length"], spec.seed) == (30, 512, 1234)
    assert data["primary_metric"] == GLUE.get(task, "accuracy")


@pytest.mark.parametrize("method", MATH)
def test_metamath_is_as_in_the_scripts(method: str) -> None:
    spec = composed(f"experiment={method}_llama2_7b_metamath")
    rank, alpha, rate, sequences, length, rows = MATH[method]
    assert (spec.method["r"], spec.method["lora_alpha"], spec.training.learning_rate) == (rank, alpha, rate)
    assert spec.method["target_modules"] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert (sequences_in_a_step(spec), spec.dataset["max_length"]) == (sequences, length)
    assert (spec.dataset["max_train_samples"], spec.training.num_train_epochs) == (rows, 1)
    assert (spec.training.lr_scheduler_type, spec.training.warmup_ratio) == ("cosine", 0.03)


@pytest.mark.parametrize("network", ["mlp", "lenet"])
def test_the_subspaces_of_mnist_are_as_in_the_scripts(network: str) -> None:
    spec = composed(f"experiment=intrinsic_dimension_{network}_mnist")
    assert spec.method["intrinsic_dimension"] == {"mlp": 750, "lenet": 290}[network]
    assert (spec.optimizer["name"], spec.optimizer["betas"], spec.training.learning_rate) == ("adam", [0.9, 0.99], 1e-3)
    assert (sequences_in_a_step(spec), spec.training.num_train_epochs) == (128, 100)
    assert spec.training.lr_scheduler_type == "constant"


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_states_its_choices_and_only_known_keys_in_range(name: str) -> None:
    from lrexp.methods import catalog
    from lrexp.models import model_spec
    from lrexp.optim.build import make_optimizer
    from lrexp.tasks import build

    defaults = yaml_text.read_file(choices.folder() / "experiment" / f"{name}.yaml")["defaults"]
    assert {key for entry in defaults for key in entry} >= {f"override /{g}" for g in ("method", "model", "dataset")}
    spec = composed(f"experiment={name}")
    catalog.build(spec.method)
    make_optimizer(spec.optimizer, 1.0)
    build.check(spec.dataset)
    model_spec.read(spec.model)


@pytest.mark.parametrize("name", FINE_TUNING)
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
