"""EVA: starts are principal directions of the inputs, ranks go where the variance is, the base is left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import adapted_layers
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.lora_linear import LoRAFused
from lrexp.linalg.covariance import RunningCovariance
from lrexp.methods.adapters.eva import EVA, EVAHyperparameters
from lrexp.methods.base import Decisions
from lrexp.spec.errors import InputError
from tests.commands.test_export import exported, in_peft, inputs, logits, trained
from tests.methods.calibrated import batch, context, network, stopped_in_calibration
from tests.methods.test_laws import weights

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")


def hyperparameters(**values: Any) -> EVAHyperparameters:
    return EVAHyperparameters(**{"r": 4, "target_modules": ALL, "calibration_batch_size": 8, **values})


def prepared(model: nn.Module, **values: Any) -> tuple[dict[str, LoRALayer], Decisions, EVA]:
    method = EVA(hyperparameters(**values))
    decisions = method.decide(model, context())
    method.prepare(model, decisions, context())
    return adapted_layers(model), decisions, method  # type: ignore[return-value]


@pytest.mark.parametrize("estimator", ["covariance", "incremental"])
@pytest.mark.parametrize("rho", [1.0, 1.5, 3.0])
def test_ranks_keep_their_sum_and_their_bound_and_starts_are_orthonormal(rho: float, estimator: str) -> None:
    model = network()
    before, modes = {n: t.clone() for n, t in model.state_dict().items()}, [m.training for m in model.modules()]
    asked = [p.requires_grad for p in model.parameters()]
    decisions = EVA(hyperparameters(rho=rho, estimator=estimator)).decide(model, context())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == asked
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    ranks = decisions.values["ranks"]
    assert sum(ranks.values()) == 4 * len(ALL) and max(ranks.values()) <= round(4 * rho)
    assert (rho == 1) == (set(ranks.values()) == {4})
    layers = adapted_layers(EVA(hyperparameters(rho=rho)).prepare(model, decisions, context()))
    assert {name: layer.r for name, layer in layers.items()} == {n: r for n, r in ranks.items() if r}  # type: ignore[attr-defined]
    for layer in layers.values():
        A: Tensor = layer.lora_A.detach()  # type: ignore[operator]
        torch.testing.assert_close(A @ A.mT, torch.eye(len(A)), rtol=0, atol=1e-5)
        assert not layer.lora_B.any()  # type: ignore[operator]


def test_the_start_is_that_of_all_calibration_rows() -> None:
    """Every batch is needed for so high a tau, and then the components are those of all rows together."""
    layers, decisions, method = prepared(network(), rho=1.0, tau=0.9999999, max_batches=5)
    assert decisions.values["batches"] == 5 and not decisions.values["settled"]
    X = torch.cat([batch(i, 8).flatten(0, 1) for i in range(5)]).double()
    S, Vh = torch.linalg.svd(X - X.mean(0), full_matrices=False)[1:]
    for name in ("q_proj", "k_proj", "v_proj"):
        cosines = (layers[name].lora_A.detach().double() @ Vh[:4].mT).diag()
        assert cosines.abs().min() > 1 - 1e-5
    found = torch.tensor(decisions.values["explained_variance_ratio"]["q_proj"]).double()
    torch.testing.assert_close(found, S[:4].square() / S.square().sum(), rtol=1e-4, atol=0)
    assert method.metrics() == {"largest_rank": 4, "layers_removed": 0, "calibration_batches": 5}


def test_ties_within_a_group_go_in_the_models_order_and_a_layer_of_rank_0_stays_plain() -> None:
    for r in (1, 2, 3):
        model = network()
        layers, decisions, method = prepared(model, r=r, rho=4.0)
        q, k, v = (decisions.values["ranks"][name] for name in ALL[:3])
        assert q >= k >= v >= q - 1
        removed = [name for name in ALL if name not in layers]
        assert all(type(model.get_submodule(name)) is nn.Linear for name in removed)
        assert not any(p.requires_grad for name in removed for p in model.get_submodule(name).parameters())
        assert method.metrics()["layers_removed"] == len(removed)
    assert not torch.equal(layers["q_proj"].lora_A, layers["o_proj"].lora_A)
    assert torch.equal(layers["q_proj"].lora_A[: layers["v_proj"].r], layers["v_proj"].lora_A)


def test_whitening_divides_each_layer_of_a_group_once() -> None:
    plain, _, _ = prepared(network(), rho=1.0)
    method = EVA(hyperparameters(rho=1.0, whiten=True))
    found = method.calibrate(network(), context())
    for name in ("q_proj", "k_proj", "v_proj"):
        roots = found.estimators["q_proj"].singular_values[:4, None].sqrt()
        torch.testing.assert_close(method.decided(found).tensors[name] * roots, plain[name].lora_A.detach())


@pytest.mark.parametrize("use_rslora", [False, True])
def test_scaling_is_that_of_rank_r_where_it_is_adjusted(use_rslora: bool) -> None:
    setting = {"rho": 3.0, "use_rslora": use_rslora, "rank_pattern": {"down": 2}, "alpha_pattern": {"up": 5.0}}
    for adjust in (True, False):
        layers, decisions, _ = prepared(network(), adjust_scaling_factors=adjust, **setting)
        assert sum(decisions.values["ranks"].values()) == 22
        for name, layer in layers.items():
            alpha, r = 5.0 if name == "up_proj" else 16.0, 2 if name == "down_proj" else 4
            divisor = r if adjust else layer.r
            assert layer.scaling == pytest.approx(alpha / (divisor**0.5 if use_rslora else divisor))
    assert len({layer.r for layer in layers.values()}) > 1


@pytest.mark.parametrize("estimator", ["covariance", "incremental"])
def test_a_settled_layer_takes_in_no_more_rows(estimator: str) -> None:
    """Inputs of a steep spectrum are settled sooner than flat ones."""
    method = EVA(hyperparameters(estimator=estimator, tau=0.9, rho=1.0))
    found = method.calibrate(network(), context())
    seen = {name: each.seen for name, each in found.estimators.items()}
    assert found.settled and max(seen.values()) == 8 * 7 * found.batches
    assert min(seen.values()) < max(seen.values())


def test_what_does_not_settle_is_taken_with_a_warning() -> None:
    said: list[str] = []
    method = EVA(hyperparameters(tau=0.9999999, max_batches=2))
    method.decide(network(), context(say=said.append))
    assert len(said) == 1 and "still move (tau 1) after 2 batches: taken as they are" in said[0]
    said.clear()
    EVA(hyperparameters(tau=0.5)).decide(network(), context(say=said.append))
    assert not said


def test_wide_layers_have_no_covariance_of_their_own() -> None:
    model = network(h=600)
    found = EVA(hyperparameters()).calibrate(model, context())
    whole = {name: each.is_whole for name, each in found.estimators.items() if isinstance(each, RunningCovariance)}
    assert whole == {"q_proj": True, "o_proj": True, "up_proj": True, "down_proj": False}


def test_slices_of_a_fused_layer_start_alike() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = Conv1D(48, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.c_attn(x)

    layers, _, _ = prepared(Fused(), target_modules=("q", "v"), r=3, rho=1.0)
    layer = layers["c_attn"]
    assert isinstance(layer, LoRAFused) and layer.lora_A.shape == (6, 16)
    assert torch.equal(layer.lora_A[:3], layer.lora_A[3:]) and not layer.lora_B.any()


def test_what_has_no_vectors_as_inputs_and_too_few_tokens_are_refused() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(20, 16)})
    for act in (
        lambda method: method.decide(model, context()),
        lambda method: method.prepare(model, Decisions(), context()),
    ):
        with pytest.raises(InputError, match=r"^embed is a Embedding: EVA needs inputs of Linear or Conv1D; leave it"):
            act(EVA(hyperparameters(target_modules="embed")))
    with pytest.raises(InputError, match=r"too few tokens for 12 components of q_proj in 3 batches: raise method.cali"):
        EVA(hyperparameters(estimator="incremental", calibration_batch_size=1, r=6, max_batches=3)).decide(
            network(), context()
        )


@pytest.mark.parametrize(
    "values",
    [
        {"rho": 0.5},
        {"tau": 1.0},
        {"tau": 0.0},
        {"lora_dropout": 1.0},
        {"max_batches": 1},
        {"calibration_batch_size": 0},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values)) + " is "):
        replace(EVAHyperparameters(), **values)


def test_stopped_in_its_calibration_it_starts_over_and_ends_with_the_same_bytes(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, whole = run("method=eva", to="whole")
    stopped_in_calibration(run, "eva", monkeypatch)
    assert not list((tmp_path / "stopped" / "checkpoints").iterdir())
    _, stopped = run("method=eva", to="stopped")
    assert weights(stopped) == weights(whole)
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_ranks_are_in_the_log_and_in_the_result(run: Any) -> None:
    result, folder = run("method=eva", "method.rho=1.5", "method.r=4")
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert {"method/largest_rank", "method/layers_removed", "method/calibration_batches"} <= line.keys()
    assert result["metrics"]["method_largest_rank"] == line["method/largest_rank"]


@pytest.mark.parametrize("setting", [(), ("method.use_rslora=true", "method.adjust_scaling_factors=false")])
def test_peft_gives_the_run_s_logits(setting: tuple[str, ...], run: Any, tiny_model: Path, tmp_path: Path) -> None:
    words = (
        "method=eva",
        "method.r=4",
        "method.target_modules=all-linear",
        "training.learning_rate=3e-2",
    )
    _, folder = run(*words, *setting)
    assert exported(folder, "peft", tmp_path / "out")["largest_logit_difference"] < 1e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert len({config["r"], *config["rank_pattern"].values()}) > 1
    found = logits(in_peft(tiny_model, tmp_path / "out"), inputs(tiny_model))
    torch.testing.assert_close(found, trained(folder, inputs(tiny_model)), rtol=0, atol=1e-5)
