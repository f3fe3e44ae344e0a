from typing import Any, Literal

import pytest

from lrexp.methods import catalog
from lrexp.spec import choices, yaml_text
from lrexp.spec.compose import compose
from lrexp.spec.convert import Value, convert
from lrexp.spec.errors import InputError

EVERY = [(group, name) for group in choices.groups() for name in choices.names(group)]
COMMENTED = [(group, name) for group, name in EVERY if group != "experiment"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int", int),
        ("int >= 1", int),
        ("float > 0 or null", float | None),
        ("float in [0, 1)", float),
        ("bool", bool),
        ("one of a, b", Literal["a", "b"]),
        ("one of a, b or null", Literal["a", "b"] | None),
        ("list of float", tuple[float, ...]),
        ("str or list of str", str | tuple[str, ...]),
        ("list of str or null", tuple[str, ...] | None),
        ("map of str to int", dict[str, int]),
        ("map of str to value", dict[str, Value]),
    ],
)
def test_type_comments(text: str, expected: Any) -> None:
    assert choices.annotation(text) == expected


def test_a_type_that_is_none_is_a_defect() -> None:
    with pytest.raises(ValueError, match="integer"):
        choices.annotation("integer")


@pytest.mark.parametrize(("group", "name"), COMMENTED)
def test_every_yaml_keeps_the_grammar(group: str, name: str) -> None:
    choice = choices.choice(group, name)
    text = (choices.folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml_text.parse(text, name)
    nests = [nest for nest in ("tuning", "config") if values.get(nest)]
    leaves = {key for key in values if key not in ("name", *nests)}
    leaves |= {f"{nest}.{key}" for nest in nests for key in values.get(nest, {})}
    assert leaves == {field.key for field in choice.fields}
    assert choice.summary
    assert len(text.splitlines()) <= 40
    if group not in ("training", "hardware"):
        assert values["name"] == name
    for field in choice.fields:
        assert field.type and field.paper and field.meaning
        convert(field.default, field.annotation, field.key)


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_every_choice_composes(group: str, name: str) -> None:
    spec, _ = compose([f"{group}={name}"], catalog.families())
    sections = spec.to_dict()
    if group in ("method", "model", "dataset", "optimizer", "tracking"):
        assert sections[group]["name"] == name
    if group == "experiment":
        assert spec.experiment == name


def test_methods_and_catalogue_are_in_step() -> None:
    assert set(choices.names("method")) == set(catalog.ENTRIES)


@pytest.mark.parametrize("name", choices.names("method"))
def test_a_method_names_a_range_around_its_rate(name: str) -> None:
    method = choices.choice("method", name)
    low, high = method.default("tuning.learning_rate_range")
    assert low <= method.default("tuning.learning_rate") <= high


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="Did you mean 'pissa'"):
        choices.choice("method", "pisa")
    with pytest.raises(InputError, match="Did you mean 'method'"):
        choices.names("methods")
