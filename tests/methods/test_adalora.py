"""AdaLoRA: the budget is met exactly, what went stays away after the last choice, a stop in the schedule is no stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.laws.stopping import stop_after
from lrexp.layers.lora_layer import difference_to_original
from lrexp.methods.adapters.adalora import AdaLoRA, AdaLoRAHyperparameters, Schedule
from lrexp.methods.base import Context, Decisions, Training
from lrexp.optim.build import make_optimizer
from lrexp.spec.errors import InputError, Interrupted
from tests.conftest import Runner

LONG = (
    "method=adalora", "training.max_steps=14", "method.deltaT=2", "method.tinit=3", "method.tfinal=4",
    "method.init_r=6", "method.target_r=2",
)  # fmt: skip


class Network(nn.Module):
    """Every kind of layer, one of them fused: q, k and v in one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.up_proj = nn.Embedding(11, 8), nn.Linear(8, 24), nn.Linear(8, 10)
        self.mix, self.conv = Conv1D(8, 10), nn.Conv2d(1, 6, 3, padding=1)

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(ids)).chunk(3, -1)
        return self.conv(self.mix(torch.tanh(self.up_proj(q * k + v)))[:, None])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return Network()


def prepared(model: nn.Module, steps: int, **values: Any) -> AdaLoRA:
    targets = ("embed", "q", "v", "up_proj", "mix", "conv")
    values = {"target_modules": targets, "init_r": 4, "target_r": 2, "tinit": 0.0, "tfinal": 0.0, "deltaT": 1} | values
    method = AdaLoRA(AdaLoRAHyperparameters(**values))
    method.prepare(model, Decisions(), Context(0, steps, torch.device("cpu"), torch.float32))
    return method


def trained(
    method: AdaLoRA, model: nn.Module, steps: int, each: Callable[[int], None] = lambda step: None, first: int = 0
) -> None:
    """Steps of a run, `each` called after every one of them."""
    optimizer = make_optimizer({"name": "sgd", "momentum": 0.5}, 0.05)(method.parameter_groups(model))
    ids = torch.arange(11).expand(2, -1)
    for step in range(first, steps):
        training = Training(optimizer, step)
        model(ids + 0 * step).square().mean().backward()
        method.gradients_ready(step, training)
        method.before_update(step, training)
        optimizer.step()
        method.after_update(step, training)
        optimizer.zero_grad()
        each(step + 1)


def live(method: AdaLoRA) -> int:
    return sum(int((layer.lora_E != 0).sum()) for layer in method.adapters.values())  # type: ignore[union-attr]


def test_the_budget_falls_by_a_cubic() -> None:
    schedule = Schedule.of(AdaLoRAHyperparameters(tinit=3, tfinal=4, deltaT=2), 20)
    budgets = [schedule.budget(step, 18, 6) for step in range(1, 21)]
    assert budgets == [18, 18, 18, 15, 13, 11, 9, 8, 7, 7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6]
    due = [step for step in range(1, 21) if schedule.is_due(step)]
    assert due == [4, 6, 8, 10, 12, 14, 16]
    assert [schedule.choices(step) for step in range(16)] == [sum(s <= step for s in due) for step in range(16)]


@pytest.mark.parametrize("total", [1, 2, 3, 6, 10, 100, 12_345])
def test_the_shares_fit_into_runs_of_any_length(total: int) -> None:
    schedule = Schedule.of(AdaLoRAHyperparameters(), total)
    assert 0 <= schedule.begin < schedule.last <= total
    assert schedule.is_due(schedule.last)
    assert abs(total - schedule.last - 0.1 * total) <= 0.5 and abs(schedule.begin - 0.025 * total) <= 0.5


def test_as_many_stay_as_the_budget_says_to_the_end() -> None:
    model = network()
    method = prepared(model, 12, tfinal=3)
    layers = method.adapters.values()
    assert sum(layer.blocks for layer in layers) == 6  # the fused layer counts for its two slices
    found: list[tuple[int, int]] = []
    trained(method, model, 12, lambda step: found.append((live(method), method.budget())))
    assert [one for one, _ in found] == [budget for _, budget in found]
    assert found[0][0] > found[4][0] > found[-1][0] == 12
    assert method.metrics() == {"mean_rank": 2.0}


def test_what_went_may_return_before_the_last_choice_and_not_after() -> None:
    model = network()
    method = prepared(model, 12, tfinal=3, deltaT=4)
    found: list[int] = []
    trained(method, model, 12, lambda step: found.append(live(method)))
    assert found[:3] == [24] * 3 and found[3] < 24 and found[4:7] == [24] * 3 and found[7] < 24
    assert found[8:] == [12] * 4
    assert method.state_dict()["Ibar"] == {}


def test_equal_scores_go_by_the_model_s_order() -> None:
    method = prepared(network(), 12)
    assert method.choice(7).tolist() == [True] * 7 + [False] * 17


def test_scores_are_those_of_the_formula() -> None:
    model = network()
    method = prepared(model, 9, tinit=8, orth_reg_weight=0.0)
    means = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in method.trained().items()}
    gradients: dict[str, Tensor] = {}
    for name, p in method.trained().items():
        p.register_post_accumulate_grad_hook(lambda p, name=name: gradients.__setitem__(name, p.grad.clone()))

    def by_hand(step: int) -> None:
        for name, p in method.trained().items():
            Ibar, U = means[name]
            seen = (p.detach() * gradients[name]).abs()
            Ibar.mul_(0.85).add_(seen, alpha=0.15)
            U.mul_(0.85).add_((seen - Ibar).abs(), alpha=0.15)

    trained(method, model, 4, by_hand)
    scores = {name: Ibar * U for name, (Ibar, U) in means.items()}
    expected = []
    for name, layer in method.adapters.items():
        A, B = (scores[f"{name}.{key}"] for key in ("lora_A", "lora_B"))
        for j, E in enumerate(scores[f"{name}.lora_E"].chunk(layer.blocks)):
            rows, columns = A.chunk(layer.blocks)[j], B.chunk(layer.blocks)[j]
            expected += [E[i] + rows[i].mean() + columns[:, i].mean() for i in range(len(E))]
    order = torch.stack(expected).argsort(descending=True)
    for budget in (1, 5, 11, 20):
        assert set(method.choice(budget).nonzero().flatten().tolist()) == set(order[:budget].tolist())


def test_the_penalty_is_the_gradient_of_the_loss_s_part() -> None:
    model = network()
    method = prepared(model, 5, target_modules=("up_proj", "mix"), orth_reg_weight=0.3)
    factors = [f for layer in method.adapters.values() for f in (layer.lora_A, layer.lora_B)]
    grams = [
        g for A, B in (layer.factors() for layer in method.adapters.values()) for g in (A[0] @ A[0].mT, B[0].mT @ B[0])
    ]
    R = torch.stack([(gram - torch.eye(4)).norm() for gram in grams]).mean()
    expected = torch.autograd.grad(0.3 * R, factors)
    method.gradients_ready(0, Training(make_optimizer({"name": "sgd"}, 0.1)(method.parameter_groups(model)), 0))
    for factor, gradient in zip(factors, expected, strict=True):
        torch.testing.assert_close(factor.grad, gradient)


def test_a_layer_that_starts_small_keeps_what_it_has() -> None:
    method = prepared(network(), 4, rank_pattern={"up_proj": 1})
    assert method.adapters["up_proj"].r == 1
    method.step = 4
    assert method.budget() == 1 + 5 * 2


def test_a_layer_without_triplets_is_exported_and_merged() -> None:
    model = network()
    method = prepared(model, 3, target_r=1, alpha_pattern={"up_proj": 6.0})
    trained(method, model, 3)
    layers = list(method.adapters.values())
    assert method.kept is not None
    for layer, live in zip(layers, [0, 0, 2, 1, 4], strict=True):
        kept = torch.zeros(layer.blocks, 4, dtype=torch.bool)
        kept[-1, 4 - live :] = True
        layer.lora_E.data = torch.where(kept.flatten(), 0.3, 0.0)  # type: ignore[union-attr]
        A, B, r, alpha = difference_to_original(layer)
        assert r == max(1, live)
        assert alpha / r == pytest.approx(layer.scaling)
        pairs = A.view(layer.blocks, r, -1), B.view(layer.blocks, -1, r)
        change = layer.in_layout(layer.scaling * torch.bmm(pairs[1], pairs[0]))
        torch.testing.assert_close(change, layer.delta_weight(), rtol=1e-5, atol=1e-8)
    ids = torch.arange(11).expand(2, -1)
    expected = model(ids)
    torch.testing.assert_close(method.finalize(model)(ids), expected, rtol=1e-4, atol=1e-6)


def test_a_kill_in_the_schedule_changes_no_byte(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two choices, before the last one, right after it, after the statistics are gone, and at the end."""
    stops, words = (4, 9, 10, 11, 14), (*LONG, "training.save_steps=100")
    undisturbed, whole = run(*words, to="whole")
    stop_after(monkeypatch, *stops)
    for _ in stops:
        with pytest.raises(Interrupted):
            run(*words, to="stopped")
    result, stopped = run(*words, to="stopped")
    assert result["costs"]["resumed_from"] == list(stops) and result["metrics"] == undisturbed["metrics"]
    for name in ("adapter.safetensors", "metrics.jsonl"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_ends_with_its_budget(run: Runner) -> None:
    result, folder = run(*LONG)
    kept = load_file(folder / "adapter.safetensors")
    diagonals = [tensor for name, tensor in kept.items() if name.endswith("lora_E")]
    assert sum(int((E != 0).sum()) for E in diagonals) == 8 and len(diagonals) == 4
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "method/mean_rank" in line]
    assert [line["method/mean_rank"] for line in steps[3:7]] == [4.5, 4.5, 2.5, 2.5]
    assert [line.get("method/budget") for line in steps[:5]] == [24, 24, 24, 18, 13]
    assert [line.get("method/choices") for line in steps[7:]] == [3, 3, *[None] * 5]
    assert result["metrics"]["method_mean_rank"] == 2


def test_the_adapter_that_is_exported_holds_the_live_triplets(run: Runner, tmp_path: Path) -> None:
    from lrexp.cli import main

    _, folder = run(*LONG, "training.learning_rate=5e-2")
    assert main(["export", str(folder), "--to", "peft", "--out", str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    ranks = {name: config["rank_pattern"].get(name, config["r"]) for name in config["target_modules"]}
    kept = load_file(folder / "adapter.safetensors")
    assert ranks == {name: max(1, int((kept[f"{name}.lora_E"] != 0).sum())) for name in ranks}
    assert json.loads((tmp_path / "out" / "lrexp_export.json").read_text())["largest_logit_difference"] < 1e-5


@pytest.mark.parametrize(("tinit", "tfinal", "steps"), [(6, 4, 10), (0.0, 20, 10), (0.5, 0.5, 10), (0.9, 0.9, 100)])
def test_a_schedule_that_does_not_fit_is_refused(tinit: float, tfinal: float, steps: int) -> None:
    with pytest.raises(InputError, match=rf"leave none of the run's {steps} steps"):
        prepared(network(), steps, tinit=tinit, tfinal=tfinal)
    prepared(network(), 0, tinit=tinit, tfinal=tfinal)  # a run that trains nothing has no schedule


@pytest.mark.parametrize(
    "values",
    [
        {"init_r": 0}, {"target_r": 0}, {"target_r": 13}, {"tinit": 2.5}, {"tfinal": -1}, {"deltaT": 0}, {"beta1": 1.0},
        {"beta2": 0.0}, {"orth_reg_weight": -0.1}, {"lora_dropout": 1.0},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        AdaLoRAHyperparameters(**values)
