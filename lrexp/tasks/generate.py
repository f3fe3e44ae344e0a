"""Greedy decoding with a key-value cache, for a batch of prompts that are padded on the left."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def greedy(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, count: int, end: int) -> Tensor:
    """At most `count` tokens after each prompt, (items, new) int64; from an item's first `end` on all are `end`.

    `input_ids` and `attention_mask` are (items, width), the padding on the left. Positions count from each prompt's
    first token, so that a prompt is answered alike beside whatever others. Nothing is drawn, and a model's own
    generation settings (temperature, penalties) are not looked at.
    """
    lengths = attention_mask.sum(1, keepdim=True)  # (items, 1)
    width = attention_mask.shape[1]
    positions = (torch.arange(width, device=input_ids.device) - (width - lengths)).clamp(min=0)  # (items, width)
    is_done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    given, cache, found = input_ids, _cache(model), []
    for _ in range(count):
        logits = model(
            input_ids=given, attention_mask=attention_mask, position_ids=positions, use_cache=True, logits_to_keep=1,
            **cache,
        ).logits  # fmt: skip
        token = logits[:, -1].argmax(-1).masked_fill(is_done, end)  # (items,)
        found.append(token)
        is_done |= token == end
        if is_done.all():
            break
        given, positions = token[:, None], positions[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(token), 1)], dim=1)
    return torch.stack(found, dim=1)


def _cache(model: nn.Module) -> dict[str, Any]:
    """An empty cache, which the model fills, under the name that its forward pass has for it."""
    from transformers import DynamicCache

    names = ("cache", "past_key_values")  # transformers 5.24 and later, earlier ones
    taken = inspect.signature(model.forward).parameters
    return {next(name for name in names if name in taken): DynamicCache(config=model.config)}  # pyright: ignore
