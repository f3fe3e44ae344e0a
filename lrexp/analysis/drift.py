"""How far training has moved a model from its base: by its weights, its final hidden states, its loss on a text.

That adapters forget less than full fine-tuning: Biderman et al. 2024, arXiv 2405.09673. A text is a list of sequences,
each {"input_ids", ...} of shape (1, tokens) as the model's tokenizer gives it; they go through the model one at a time,
so that nothing is padded. `opened` opens the context of a forward pass; `check` may end the measuring between two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.models.roles import group_of, head_modules

PIECE = 1 << 22  # numbers of a weight that are compared at a time: no second copy of it in float64
Text = Sequence[Mapping[str, Tensor]]
Opened = Callable[[], AbstractContextManager[object]]
Check = Callable[[], None]


@torch.no_grad()
def weight_distance(trained: nn.Module, base: nn.Module, head: tuple[str, ...]) -> dict[str, float]:
    """||W - W0|| / ||W0|| (Frobenius) over all matrices outside the head: as "all", and of "attention" and "mlp" alone.

    Embeddings and the kernels of convolutions are matrices too, a tied weight counts once; biases and norms are none.
    Computed in float64. Raises ValueError unless both models have the same weights by name and shape.
    """
    inside = tuple(f"{name}." for name in head_modules(base, head))
    moved: dict[str, float] = {}
    size: dict[str, float] = {}
    weights = dict(trained.named_parameters())
    starts = {name: W0 for name, W0 in base.named_parameters() if not name.startswith(inside)}
    for name, W0 in starts.items():
        W = weights.get(name)
        if W is None or W.shape != W0.shape:
            raise ValueError(f"{name} is no weight of both models")
        if W0.ndim < 2:
            continue
        change, norm = _squares(W, W0)
        for group in filter(None, ("all", group_of(name.rpartition(".")[0]))):
            moved[group] = moved.get(group, 0.0) + change
            size[group] = size.get(group, 0.0) + norm
    return {group: (moved[group] / size[group]) ** 0.5 for group in size if size[group]}


@torch.no_grad()
def token_loss(model: nn.Module, text: Text, opened: Opened, check: Check = lambda: None) -> float:
    """The loss of a causal language model in nats per predicted token: every token of a sequence but its first."""
    total, count = 0.0, 0
    for sequence, output in _passes(model, text, opened, check, use_cache=False):
        logits, targets = output.logits[0, :-1], sequence["input_ids"][0, 1:]  # (tokens - 1, vocabulary), (tokens - 1)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        total += float(F.cross_entropy(logits, targets, reduction="none").double().sum())
        count += len(targets)
    return total / count


@torch.no_grad()
def final_states(model: nn.Module, text: Text, opened: Opened, check: Check = lambda: None) -> list[Tensor]:
    """The final hidden states of each sequence, (tokens, width) on the CPU."""
    passes = _passes(model, text, opened, check, output_hidden_states=True)
    return [output.hidden_states[-1][0].cpu() for _, output in passes]


def representation_distance(trained: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """1 - the mean over all tokens of the cosine between the final hidden states of two models on the same text."""
    cosines = [F.cosine_similarity(h.double(), h0.double(), dim=-1) for h, h0 in zip(trained, base, strict=True)]
    return 1.0 - float(torch.cat(cosines).mean())


def _squares(W: Tensor, W0: Tensor) -> tuple[float, float]:
    """The squared norms of the change and of the start."""
    change = norm = 0.0
    for new, old in zip(W.reshape(-1).split(PIECE), W0.reshape(-1).split(PIECE), strict=True):
        start = old.double()
        norm += float(start.square().sum())
        change += float((new.double() - start).square().sum())
    return change, norm


def _passes(
    model: nn.Module, text: Text, opened: Opened, check: Check, **wanted: bool
) -> Iterator[tuple[Mapping[str, Tensor], Any]]:
    """Each sequence on the model's device, and what the model makes of it; nothing is dropped out."""
    device = next(model.parameters()).device
    model.eval()
    for sequence in text:
        check()
        placed = {name: tensor.to(device) for name, tensor in sequence.items()}
        with opened():
            output = model(**placed, **wanted)
        yield placed, output
