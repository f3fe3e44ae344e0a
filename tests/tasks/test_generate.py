"""Greedy decoding: what transformers writes, whatever stands beside a prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config

from lrexp.tasks.causal_lm import padded
from lrexp.tasks.generate import greedy

END = 1
SIZE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.6, "eos_token_id": END,
}  # fmt: skip
NEOX = {key: value for key, value in SIZE.items() if key != "num_key_value_heads"}
CONFIGS = {
    "llama": LlamaConfig(**SIZE, pad_token_id=None, bos_token_id=None),
    "mistral": MistralConfig(**SIZE, sliding_window=6),
    "qwen2": Qwen2Config(**SIZE),
    "gpt_neox": GPTNeoXConfig(**NEOX),
    "gpt2": GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.6, eos_token_id=END
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(4)
        return AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float64).eval()


def test_it_writes_what_transformers_writes_and_stops_at_the_end(model: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(2, 40, (n,), generator=draw).numpy() for n in (3, 11, 1, 7, 7, 2)]
    ids, mask = padded(prompts, END, left=True)
    together = greedy(model, ids, mask.long(), 12, END)
    ended = 0
    for prompt, row in zip(prompts, together, strict=True):
        alone = torch.from_numpy(prompt)[None]
        settings = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": END, "eos_token_id": END}
        expected = model.generate(alone, attention_mask=torch.ones_like(alone), **settings)[0, alone.shape[1] :]
        assert row[: len(expected)].tolist() == expected.tolist()
        assert (row[len(expected) :] == END).all()
        ended += len(expected) < 12
    assert together.shape[1] <= 12 and len(torch.unique(together)) > 5


def test_it_ends_when_all_have_ended(model: Any) -> None:
    ids = torch.tensor([[5, 6], [7, 8]])
    first = greedy(model, ids, torch.ones_like(ids), 4, 39)[:, 0]
    same = torch.stack([ids[0], ids[0]])
    found = greedy(model, same, torch.ones_like(ids), 9, int(first[0]))  # the first token is the end
    assert found.tolist() == [[int(first[0])]] * 2
