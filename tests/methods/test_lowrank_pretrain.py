"""Low-rank pretraining: its starts, the dead point, the Frobenius decay and the rank that stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from lrexp.layers.factorised import FactorisedLinear, factorised_layers
from lrexp.linalg.random import ambient, generator
from lrexp.methods.base import Context, Decisions, Micro
from lrexp.methods.pretraining import lowrank_pretrain
from lrexp.methods.pretraining.lowrank_pretrain import (
    DEAD_PAIRS,
    LowRankPretrain,
    LowRankPretrainHyperparameters,
    frobenius_square,
)
from lrexp.methods.pretraining.memory import Sizes, estimate
from lrexp.optim.build import make_optimizer
from lrexp.spec import choices
from lrexp.spec.errors import InputError

CONTEXT = Context(0, 1, torch.device("cpu"), torch.float32)
ROLES = ("q", "k", "v", "o", "gate", "up", "down")
IDS = torch.randint(0, 50, (4, 12), generator=generator(0, "ids"))


def prepared(model: nn.Module, **values: Any) -> nn.Module:
    return LowRankPretrain(LowRankPretrainHyperparameters(**values)).prepare(model, Decisions(), CONTEXT)


def small(blocks: int = 2) -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": blocks, "num_attention_heads": 4}
    with ambient(0):
        return LlamaForCausalLM(LlamaConfig(vocab_size=50, **shape))


def one(base: nn.Module, **values: Any) -> FactorisedLinear:
    return factorised_layers(prepared(nn.ModuleDict({"layer": base}), target_modules="layer", **values))["layer"]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The largest gradient of each factor after one backward pass."""
    model(input_ids=IDS, labels=IDS).loss.backward()
    factors = {f"{n}.{f}": getattr(m, f) for n, m in factorised_layers(model).items() for f in ("A", "B")}
    return {name: p.grad.abs().max() for name, p in factors.items()}


def after_steps(**values: Any) -> dict[str, Tensor]:
    """The same after four steps of AdamW: a layer at zero may give way to another's gradient from the second on."""
    model = prepared(small(1), **values)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        found = gradients(model)
        optimizer.step()
    return found


@pytest.mark.parametrize("alpha", [None, 20.0])
@pytest.mark.parametrize("base", [nn.Linear(24, 16), nn.Linear(16, 24, dtype=torch.float64), Conv1D(16, 24)])
def test_spectral_start_is_the_best_approximation(base: nn.Module, alpha: float | None) -> None:
    weight: Any = base.weight
    W0 = (weight.t() if isinstance(base, Conv1D) else weight).detach().double()
    U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
    layer = one(base, rank=5, lora_alpha=alpha)
    assert layer.A.dtype == weight.dtype and layer.scaling == (1.0 if alpha is None else 4.0)
    W = layer.dense_weight(torch.float64)
    torch.testing.assert_close(W, (U[:, :5] * S[:5]) @ Vh[:5], rtol=1e-4, atol=1e-6)
    gram = torch.diag(S[:5] / layer.scaling).to(layer.A.dtype)
    torch.testing.assert_close(layer.B.detach().t() @ layer.B.detach(), gram, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.A.detach() @ layer.A.detach().t(), gram, rtol=1e-4, atol=1e-6)


def test_spectral_start_of_full_rank_is_the_dense_start() -> None:
    base = nn.Linear(20, 12)
    W0, bias = base.weight.detach().clone(), base.bias
    layer = one(base, rank=12)
    torch.testing.assert_close(layer.dense_weight(), W0, rtol=0, atol=1e-5)
    assert layer.bias is bias  # unlike the factor-only code


def test_a_large_weights_spectral_start_is_randomized_and_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank_pretrain, "EXACT_UP_TO", 30)
    base = nn.Linear(80, 60, bias=False)
    base.weight.data = torch.randn(60, 80, generator=generator(0, "W")) @ torch.diag(0.9 ** torch.arange(80.0))
    exact = torch.linalg.svdvals(base.weight.detach())[:8]
    W0 = base.weight.detach().clone()
    layer = one(base, rank=8)
    found = torch.linalg.svdvals(layer.dense_weight())[:8]
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)
    best = torch.linalg.svdvals(W0)[8:].square().sum().sqrt()
    assert best < (layer.dense_weight() - W0).norm() < 1.05 * best


@pytest.mark.parametrize("alpha", [None, 256.0])
def test_gauss_start_has_the_dense_starts_variance(alpha: float | None) -> None:
    base = nn.Linear(512, 512)
    base.weight.data.normal_(std=0.02, generator=generator(0, "W"))
    layer = one(base, rank=128, init="gauss", lora_alpha=alpha)
    assert layer.dense_weight().var() == pytest.approx(0.02**2, rel=0.05)


def test_kaiming_start_is_that_of_two_linears() -> None:
    layer = one(nn.Linear(512, 300), rank=64, init="kaiming")
    for factor, inputs in ((layer.A, 512), (layer.B, 64)):
        assert 0.99 / inputs**0.5 < factor.abs().max() <= 1 / inputs**0.5


@pytest.mark.parametrize("init", ["spectral", "gauss", "kaiming"])
def test_every_factor_gets_a_gradient(init: str) -> None:
    assert all(g > 0 for g in gradients(prepared(small(), init=init)).values())


@pytest.mark.parametrize("pair", DEAD_PAIRS, ids="-".join)
def test_the_refused_pairs_are_dead(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="init=lora"):
        prepared(small(), init="lora", target_modules=pair)
    monkeypatch.setattr(lowrank_pretrain, "refuse_dead_point", lambda names: None)
    assert not any(after_steps(init="lora", target_modules=pair).values())


def test_what_is_not_refused_is_alive() -> None:
    pairs = {frozenset(pair) for pair in DEAD_PAIRS}
    for a in ROLES:
        for b in ROLES[ROLES.index(a) :]:
            if frozenset((a, b)) not in pairs:
                assert all(g > 0 for g in after_steps(init="lora", target_modules=(a, b)).values()), (a, b)


def test_a_whole_block_of_zero_products_would_never_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank_pretrain, "refuse_dead_point", lambda names: None)
    assert not any(gradients(prepared(small(), init="lora")).values())


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_frobenius_gradient_is_that_of_the_dense_norm(alpha: float | None) -> None:
    layer = one(nn.Linear(10, 14, dtype=torch.float64), rank=3, lora_alpha=alpha)
    found = torch.autograd.grad(0.05 * frobenius_square(layer), [layer.A, layer.B])
    dense = (layer.scaling * layer.B @ layer.A).square().sum()
    torch.testing.assert_close(found, torch.autograd.grad(0.05 * dense, [layer.A, layer.B]))


def test_frobenius_decay_counts_once_a_step() -> None:
    method = LowRankPretrain(LowRankPretrainHyperparameters(decay="frobenius", lam=0.1))
    model = method.prepare(small(), Decisions(), CONTEXT)
    terms = [method.loss(model, {}, lambda *_: torch.zeros(()), Micro(i, i == 1, s)) for i, s in enumerate((0.3, 0.7))]
    squares = sum(layer.dense_weight().square().sum() for layer in factorised_layers(model).values())
    torch.testing.assert_close(terms[0] + terms[1], 0.05 * torch.as_tensor(squares))


@pytest.mark.parametrize(("decay", "decayed"), [("weight", True), ("none", False), ("frobenius", False)])
def test_weight_decay_on_factors_only_where_asked(decay: Any, decayed: bool) -> None:
    method = LowRankPretrain(LowRankPretrainHyperparameters(decay=decay))
    groups = method.parameter_groups(method.prepare(small(), Decisions(), CONTEXT))
    has = {name for group in groups if group.weight_decay for name in group.parameters}
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= has
    assert any(name.endswith("q_proj.A") for name in has) == decayed
    every = [name for group in groups for name in group.parameters]
    assert len(every) == len(set(every)) == sum(1 for _ in method.prepare(small(), Decisions(), CONTEXT).parameters())


def test_the_rank_stays() -> None:
    method = LowRankPretrain(LowRankPretrainHyperparameters(rank=3))
    model = method.prepare(small(), Decisions(), CONTEXT)
    optimizer = method.build_optimizer(method.parameter_groups(model), make_optimizer({"name": "adamw"}, 1e-2))
    for _ in range(4):
        gradients(model)
        optimizer.step()
        optimizer.zero_grad()
    plain = method.finalize(model)
    for layer in plain.model.layers:  # type: ignore[union-attr]
        assert torch.linalg.matrix_rank(layer.mlp.up_proj.weight, rtol=1e-4) == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "rank", "millions", "gigabytes"),
    [
        ("llama_60m", 128, 42.8, 0.257),
        ("llama_130m", 256, 94.0, 0.564),
        ("llama_350m", 256, 185.2, 1.111),
        ("llama_1b", 512, 609.3, 3.656),
    ],
)
def test_parameters_and_bytes_of_the_published_models(name: str, rank: int, millions: float, gigabytes: float) -> None:
    config: Any = choices.choice("model", name).values["config"]
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    count = sum(p.numel() for p in prepared(model, rank=rank).parameters())
    assert round(count / 1e6, 1) == millions
    shape = [config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")]
    sizes = Sizes(*shape, rank, 0.03)
    assert count == sizes.base + sizes.lr
    found = estimate("lowrank", sizes)
    assert round((found.weights + found.optimizer) / 1e9, 3) == gigabytes


@pytest.mark.parametrize("values", [{"rank": 0}, {"lora_alpha": 0.0}, {"lam": -1.0}])
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r" is (0|-1)"):
        LowRankPretrainHyperparameters(**values)
