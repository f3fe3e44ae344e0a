"""GaLore: which weights are projected, what is refused, and runs with refreshes on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model

from lrexp.laws.probe import Probe
from lrexp.laws.stopping import stop_after
from lrexp.methods.base import Context, Decisions
from lrexp.methods.gradients.galore import GaLore, GaLoreHyperparameters
from lrexp.spec.errors import InputError, Interrupted
from tests.conftest import session
from tests.methods.test_laws import PER_LAYER

SMALL = ("method=galore", "method.rank=3", "method.update_proj_gap=3")
CONTEXT = Context(0, 1, torch.device("cpu"), torch.float32)


def prepared(model: nn.Module, **values: Any) -> GaLore:
    method = GaLore(GaLoreHyperparameters(**values))
    method.prepare(model, Decisions(), CONTEXT)
    return method


def gpt2() -> GPT2Model:
    return GPT2Model(GPT2Config(vocab_size=11, n_positions=8, n_embd=12, n_layer=1, n_head=2))


def test_roles_decide_what_is_projected() -> None:
    targets = prepared(Probe()).targets
    assert set(targets) == {f"{name}_proj.weight" for name in ("q", "k", "v", "o", "up", "down")}
    assert set(prepared(Probe(), target_modules=("conv", "mix")).targets) == {"conv.weight", "mix.weight"}


def test_a_fused_weight_is_projected_whole_or_not_at_all() -> None:
    targets = prepared(gpt2()).targets
    assert targets["h.0.attn.c_attn.weight"].is_transposed and len(targets) == 4
    with pytest.raises(InputError, match="c_attn") as refused:
        prepared(gpt2(), target_modules="q")
    assert "\n" not in str(refused.value)


def test_a_rank_above_the_weights_is_said_once() -> None:
    said: list[str] = []
    context = Context(0, 1, torch.device("cpu"), torch.float32, say=said.append)
    for rank in (25, 24):
        method = GaLore(GaLoreHyperparameters(rank=rank))
        method.prepare(Probe(), Decisions(), context)
        method.reload(Probe(), Decisions(), context, {})  # a run that goes on says it no more
    assert said == [
        "GaLore: rank 25 is above the smaller side of 6 of 6 target weights (from 24): there it is that side"
    ]


@pytest.mark.parametrize(
    "values", [{"rank": 0}, {"update_proj_gap": 0}, {"scale": 0.0}, {"svd_niter": 0}, {"svd_oversampling": -1}]
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(values))} is"):
        GaLoreHyperparameters(**values)


def test_other_weights_get_the_optimizer_as_it_is(tiny: list[str], tmp_path: Path) -> None:
    of = session(tiny, tmp_path, *SMALL)
    of.execute()
    assert of.loop is not None and isinstance(of.run.method, GaLore)
    projected = {name for p, name in of.loop.names.items() if "projector" in of.loop.optimizer.state[p]}
    assert projected == set(of.run.method.targets)
    assert len(projected) == 12 and not any("embeddings" in name or "classifier" in name for name in projected)
    assert {of.loop.optimizer.state[p]["step"] for p, name in of.loop.names.items() if name in projected} == {6}


@pytest.mark.parametrize("words", [(), ("method.svd=exact",), ("method.proj_type=full", "optimizer.eps=1e-6")])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor"])
def test_updates_within_the_backward_pass_change_no_byte_with_refreshes(
    words: tuple[str, ...], optimizer: str, run: Any
) -> None:
    if optimizer == "adafactor":
        words = tuple(word for word in words if "eps" not in word)  # it has two
    one = run(*SMALL, *words, f"optimizer={optimizer}", "training.max_grad_norm=null", to="one")[1]
    two = run(*SMALL, *words, f"optimizer={optimizer}", *PER_LAYER, to="two")[1]
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


@pytest.mark.parametrize("extra", [(), PER_LAYER, ("hardware.precision=bf16",)], ids=["plain", "per-layer", "bf16"])
def test_8_bit_states_stopped_within_a_gap_go_on_exactly_under_accumulation(
    extra: tuple[str, ...], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SMALL, "optimizer=adamw8bit", "optimizer.min_8bit_size=40", *extra]
    words += ["training.gradient_accumulation_steps=2", "training.per_device_train_batch_size=4"]
    _, undisturbed = run(*words, to="undisturbed")
    stop_after(monkeypatch, 2, 5)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(*words, to="stopped")
    result, resumed = run(*words, to="stopped")
    assert result["costs"]["resumed_from"] == [2, 5]
    assert (resumed / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert (resumed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
