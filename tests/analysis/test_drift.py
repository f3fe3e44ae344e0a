"""How far a model has moved, on models small enough to count by hand."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from lrexp.analysis import drift


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.up_proj = nn.Linear(4, 4), nn.Linear(4, 8)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block, self.classifier = nn.Embedding(6, 4), Block(), nn.Linear(8, 2)


@pytest.fixture
def base() -> Toy:
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return Toy()


def moved(base: Toy, **changes: float) -> Toy:
    trained = copy.deepcopy(base)
    with torch.no_grad():
        for name, change in changes.items():
            trained.get_parameter(name.replace("__", ".")).add_(change)
    return trained


def norm(*tensors: Tensor) -> float:
    return float(torch.cat([t.detach().double().flatten() for t in tensors]).norm())


def test_the_distance_is_that_of_all_matrices_outside_the_head(base: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "PIECE", 5)  # no weight has a multiple of it
    trained = moved(
        base, block__q_proj__weight=0.5, block__up_proj__weight=0.25, block__q_proj__bias=9.0, classifier__weight=9.0
    )
    found = drift.weight_distance(trained, base, ("classifier",))
    q, up, embedding = base.block.q_proj.weight, base.block.up_proj.weight, base.embedding.weight
    assert found == pytest.approx(
        {
            "all": (16 * 0.25 + 32 * 0.0625) ** 0.5 / norm(q, up, embedding),
            "attention": 2.0 / norm(q),
            "mlp": 2.0**0.5 / norm(up),
        },
        rel=1e-6,
    )
    assert set(drift.weight_distance(base, base, ("classifier",)).values()) == {0.0}
    assert drift.weight_distance(trained, base, ())["all"] > found["all"]


def test_other_weights_have_no_distance(base: Toy) -> None:
    other = copy.deepcopy(base)
    other.block.up_proj = nn.Linear(4, 7)
    with pytest.raises(ValueError, match=r"block\.up_proj\.weight"):
        drift.weight_distance(other, base, ("classifier",))
    del other.block
    with pytest.raises(ValueError, match=r"block\.q_proj\.weight"):
        drift.weight_distance(other, base, ("classifier",))


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True, attention_dropout=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return LlamaForCausalLM(config)


TEXT = [{"input_ids": torch.tensor([[1, 2, 3, 4, 5, 6, 7]])}, {"input_ids": torch.tensor([[9, 8, 10]])}]


def test_the_loss_is_the_mean_over_all_predicted_tokens() -> None:
    model = llama().train()
    loss = drift.token_loss(model, TEXT, nullcontext)
    model.eval()
    with torch.no_grad():
        apart = [F.cross_entropy(model(**s).logits[0, :-1], s["input_ids"][0, 1:], reduction="sum") for s in TEXT]
    assert loss == pytest.approx(float(sum(apart)) / 8, rel=1e-6)


def test_a_tied_weight_counts_once() -> None:
    base, trained = llama(), llama()
    with torch.no_grad():
        trained.lm_head.weight.add_(1.0)
    whole = norm(*(p for p in base.parameters() if p.ndim == 2))
    assert drift.weight_distance(trained, base, ())["all"] == pytest.approx(88**0.5 / whole, rel=1e-6)


def test_the_distance_of_representations_is_one_minus_the_mean_cosine_over_tokens() -> None:
    states = drift.final_states(llama(), TEXT, nullcontext)
    assert [tuple(h.shape) for h in states] == [(7, 8), (3, 8)]
    assert drift.representation_distance(states, states) == pytest.approx(0.0, abs=1e-12)
    assert drift.representation_distance([3 * h for h in states], states) == pytest.approx(0.0, abs=1e-7)
    assert drift.representation_distance([states[0], -states[1]], states) == pytest.approx(0.6)
