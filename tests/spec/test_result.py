import json

import pytest

from lrexp.spec.errors import InputError
from lrexp.spec.result import FIELDS, FORMAT, documentation, validate
from tests.report.made_up import RESULT, put

FAILED = {"status": "failed", "error": "out of memory\ntry less", "failed_at_step": 3, "metrics": {}}
UNREACHED = {f"costs.{name}": None for name in RESULT["costs"] if name != "resumed_from"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"costs.peak_memory_reserved_bytes": 1 << 30},
        {"costs.step_seconds": None, "costs.tokens_per_second": None},
        {"metrics.pearson": None},
        {"metrics.accuracy": 1},
        {"init_fingerprint": "aaa"},
        {"init_fingerprint": ...},
        {"later_field": {"of": "another version"}},
        FAILED | UNREACHED,
        {"status": "interrupted", "metrics": {}} | UNREACHED,
    ],
)
def test_a_sound_result_passes_and_survives_json(changes: dict) -> None:
    result = put(RESULT, changes)
    validate(result, "result.json")
    validate(json.loads(json.dumps(result)), "result.json")


@pytest.mark.parametrize("field", [field.name for field in FIELDS if field.null != "added"])
def test_a_missing_field_is_named_with_its_file(field: str) -> None:
    with pytest.raises(InputError, match=rf"^out/result\.json: {field}") as caught:
        validate(put(RESULT, {field: ...}), "out/result.json")
    assert "missing" in str(caught.value)


@pytest.mark.parametrize("field", [field for field in FIELDS if field.name != "format"], ids=lambda field: field.name)
def test_a_value_of_another_type_is_refused(field) -> None:
    for wrong in ({"a": {"b": 1}}, [{}], True):
        with pytest.raises(InputError, match=rf"result\.json: {field.name} is .* is needed"):
            validate(put(RESULT, {field.name: wrong}), "result.json")
    if field.null not in ("unknown", "added"):
        with pytest.raises(InputError, match=rf"result\.json: {field.name} is null"):
            validate(put(RESULT, {field.name: None}), "result.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "done"}, "status is 'done': one of finished, failed, interrupted is needed"),
        ({"evaluated_on": "train"}, "evaluated_on is 'train': one of test, validation"),
        ({"metrics.accuracy": float("nan")}, "metrics is .*: a flat map of names to finite numbers"),
        ({"metrics.inner": {"accuracy": 1.0}}, "metrics is "),
        ({"costs.step_seconds": float("inf")}, "costs.step_seconds is inf"),
        ({"costs.trainable_parameters": 1.5}, "costs.trainable_parameters is 1.5: a whole number"),
        ({"costs.peak_memory_bytes": -1}, "costs.peak_memory_bytes is -1: it cannot be negative"),
        ({"costs.resumed_from": [3, -2]}, r"costs.resumed_from\[1\] is -2"),
        ({"primary_metric": "f2"}, "metrics.f2 is missing: primary_metric names it"),
        ({"error": "late"}, "error is 'late', status is finished"),
        ({"status": "failed"}, "error is null, status is failed"),
        (
            {"format": FORMAT + 1},
            f"format {FORMAT + 1} is newer than this lrexp, which reads {FORMAT}: install a newer one",
        ),
        ({"format": "1"}, "format is '1'"),
        ({"format": 0}, "format is 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        validate(put(RESULT, changes), "result.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_no_mapping_is_no_result(content: object) -> None:
    with pytest.raises(InputError, match="a mapping of fields is needed"):
        validate(content, "result.json")


def test_a_newer_format_is_refused_before_its_fields_are_looked_at() -> None:
    with pytest.raises(InputError, match="newer"):
        validate({"format": 2}, "result.json")


def test_the_documentation_has_a_line_for_every_field() -> None:
    lines = documentation().splitlines()
    assert len(lines) == len(FIELDS) + 2
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines)
    assert all(field.meaning and f"| `{field.name}` |" in line for field, line in zip(FIELDS, lines[2:], strict=True))
