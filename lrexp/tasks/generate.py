"""Greedy decoding with a key-value cache, for a batch of prompts that are padded on the left."""

from __future__ import annotations

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
    given, cache, found = input_ids, None, []
    for _ in range(count):
        outputs = model(
            input_ids=given, attention_mask=attention_mask, position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        token = outputs.logits[:, -1].argmax(-1).masked_fill(is_done, end)  # (items,)
        found.append(token)
        is_done |= token == end
        if is_done.all():
            break
        cache, given, positions = outputs.past_key_values, token[:, None], positions[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(token), 1)], dim=1)
    return torch.stack(found, dim=1)
