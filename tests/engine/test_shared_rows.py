"""Runs whose q and v share a product: the tiny model's width allows that with rank 1 alone, so the laws pass it by."""

from __future__ import annotations

from typing import Any

import pytest

from lrexp.laws.runs import PER_LAYER, weights
from lrexp.laws.stopping import stop_after
from lrexp.layers import shared_input
from lrexp.spec.errors import Interrupted


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A one for each row that was begun."""
    begun: list[int] = []
    first = shared_input.first

    def counted(*arguments: Any) -> Any:
        begun.append(1)
        return first(*arguments)

    monkeypatch.setattr(shared_input, "first", counted)
    return begun


@pytest.mark.parametrize("words", [("training.gradient_checkpointing=true",), PER_LAYER], ids=["again", "per-layer"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_switches_change_no_byte(method: str, words: tuple[str, ...], run: Any, rows: list[int]) -> None:
    common = (f"method={method}", "method.r=1", "training.max_grad_norm=null")
    _, one = run(*common, to="one")
    _, two = run(*common[:2], *dict.fromkeys((*words, "training.max_grad_norm=null")), to="two")
    assert rows
    assert weights(one) == weights(two)
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bf16_autocast"])
def test_stopped_and_resumed_equals_undisturbed(
    precision: str, run: Any, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("method=lora", "method.r=1", f"hardware.precision={precision}")
    _, undisturbed = run(*words, to="undisturbed")
    stop_after(monkeypatch, 1, 4)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(*words, to="stopped")
    _, resumed = run(*words, to="stopped")
    assert rows
    assert weights(resumed) == weights(undisturbed)
