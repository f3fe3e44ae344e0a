"""Words of a sweep become the words of its runs."""

from __future__ import annotations

import pytest

from lrexp.spec.errors import InputError
from lrexp.spec.sweep import expand


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["method=lora,pissa", "seed=1,2"], 4),
        (["seed=range(0,5)"], 5),
        (["training.learning_rate=choice(1e-3,2e-3,4e-3)"], 3),
        (["method.target_modules=[q,v],all-linear"], 2),
        (["method.target_modules=[q,v]"], 1),
        (["method.target_modules='(query|value)'"], 1),
        (["dataset.path='/a,b'"], 1),
        (["seed=1,1,2"], 2),
        ([], 1),
    ],
)
def test_every_combination_once(words: list[str], runs: int) -> None:
    found = expand(words)
    assert len(found) == runs
    assert len({tuple(line) for line in found}) == runs
    assert all(
        [word.partition("=")[0] for word in line] == [word.partition("=")[0] for word in words] for line in found
    )


def test_the_last_key_varies_fastest() -> None:
    assert expand(["seed=1,2", "method=lora,pissa"])[1] == ["seed=1", "method=pissa"]


def test_glob_chooses_names_of_a_group() -> None:
    assert ["optimizer=adamw"] in expand(["optimizer=glob(adam*)"])
    assert ["optimizer=sgd"] not in expand(["optimizer=glob(adam*)"])


@pytest.mark.parametrize(
    "word", ["seed=1,(2", "method.r=glob(*)", "method=glob(zzz*)", "output_dir=a,b", "seed=range(0,99999)"]
)
def test_refusals_take_one_line(word: str) -> None:
    with pytest.raises(InputError) as refused:
        expand([word])
    assert len(str(refused.value).splitlines()) == 1


def test_parts_have_words_of_their_own() -> None:
    """What stands before the first + holds for all; the runs are those of each part in turn."""
    found = expand(["seed=1,2", "+", "method=lora,pissa", "+", "method=galore", "method.rank=4"])
    assert found[:2] == [["seed=1", "method=lora"], ["seed=1", "method=pissa"]]
    assert found[4:] == [["seed=1", "method=galore", "method.rank=4"], ["seed=2", "method=galore", "method.rank=4"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=lora", "+"], "there is one without words after it"),
        (["+", "+", "method=lora"], "there is one without words after it"),
        (["+", "method=lora", "output_dir=x"], "output_dir=x: output_dir holds for the whole sweep"),
        (["seed=1", "+", "seed=2"], "seed is given twice"),
        (["+", "seed=range(0,6000)", "+", "seed=range(6000,12000)"], "a sweep of 12000 runs"),
    ],
)
def test_wrong_parts_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand(words)
