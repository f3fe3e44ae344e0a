"""Every method with a size spends a budget to its last step; a budget that decides nothing is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lrexp.commands.words import compose_all, composed, overridden
from lrexp.methods.catalog import ENTRIES, load
from lrexp.plan.budget import GRAIN
from lrexp.plan.plan import plan, trainable_parameters
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec

SIZED = [name for name in ENTRIES if load(name).size]
WORDS = ("model=embedded", "dataset=mrpc", "hardware=cpu", "training.per_device_train_batch_size=1")


def larger(spec: RunSpec) -> RunSpec:
    key = load(spec.method["name"]).size
    value = spec.method[str(key)]
    return replace(spec, method={**spec.method, str(key): value + (1 / GRAIN if isinstance(value, float) else 1)})


@pytest.mark.parametrize("method", [name for name in SIZED if name != "galore"])
def test_trained_parameters_are_spent(method: str) -> None:
    other = {"sltrain": 900_000, "lowrank_pretrain": 900_000, "svd_compress": 500_000, "svfit": 27_000, "loldu": 27_000}
    bound = other.get(method, 90_000)
    spec = composed([*WORDS, f"method={method}", f"budget.trainable_parameters={bound}"])[0]
    assert trainable_parameters(spec) <= bound < trainable_parameters(larger(spec))


@pytest.mark.parametrize("method", ["lora", "galore", "said"])
def test_memory_is_spent(method: str) -> None:
    words = [*WORDS, f"method={method}"]
    bound = plan(composed(words)[0]).peak + 100_000
    spec = composed([*words, f"budget.memory={bound}"])[0]
    assert plan(spec).peak <= bound < plan(larger(spec)).peak


def test_of_two_bounds_the_tighter_decides() -> None:
    tight = ["budget.trainable_parameters=4e4", "budget.memory=1TB"]
    assert composed([*WORDS, *tight])[0] == composed([*WORDS, tight[0]])[0]


def test_a_run_given_its_size_by_hand_is_the_same_run() -> None:
    spec = composed([*WORDS, "budget.trainable_parameters=9e4"])[0]
    assert spec == composed([*WORDS, f"method.r={spec.method['r']}"])[0]
    assert overridden(composed([*WORDS])[0], ["budget.trainable_parameters=9e4"])[0] == spec


def test_a_sweep_spends_it_for_each_method() -> None:
    runs, _ = compose_all([*WORDS, "method=lora,said", "seed=1,2", "budget.trainable_parameters=4e4,9e4"])
    assert len(runs) == 8
    for spec, label in runs:
        bound = 90_000 if "=9e4" in label or "=90000" in label else 40_000
        assert 0.9 * bound < trainable_parameters(spec) <= bound
        assert label.endswith(("r=" if spec.method["name"] == "lora" else "dimension=") + label.rpartition("=")[2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=full", "budget.memory=1GB"), "method=full has no size that a budget could set"),
        (("method.r=4", "budget.memory=1GB"), "method.r=4: the budget sets method.r"),
        (("budget.memory=1kB",), "with method.r=1, the least that it can"),
        (("budget.trainable_parameters=1e9",), "takes no more than 436 k trained parameters, whatever method.r is"),
        (("method=galore", "budget.trainable_parameters=1e9"), "no more than 1.94 M trained parameters, whatever"),
        (("method=said", "budget.trainable_parameters=60"), "with method.intrinsic_dimension="),
    ],
)
def test_a_budget_that_cannot_be_spent_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as error:
        composed([*WORDS, *words])
    assert said in str(error.value)
