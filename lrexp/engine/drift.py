"""What training has moved and what the model has forgotten by it, measured after the end of a run.

The base is built once more, so that nothing is held or computed for it while the model trains, and a resumed run
measures what an undisturbed one does: all of it is a function of the last weights. One model is on the device at a
time. It needs the method's plain model, and uses the trained one up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.analysis.drift import final_states, representation_distance, token_loss, weight_distance
from lrexp.engine import precision
from lrexp.engine.identify import Run
from lrexp.engine.loop import Loop
from lrexp.layers.quantised import dequantise
from lrexp.linalg.random import stream
from lrexp.methods import catalog
from lrexp.models import build, load
from lrexp.spec.errors import InputError
from lrexp.tasks import fit
from lrexp.tasks.base import Task
from lrexp.tasks.sources import stdlib_text

SEQUENCES, TOKENS = 64, 256  # of the text, at most
CHARACTERS = 8 * TOKENS  # of a file's beginning: as many tokens are seldom longer
CPU = torch.device("cpu")
Seen = float | list[Tensor]  # the loss, or the final hidden states where a model predicts no tokens


def measure(run: Run, task: Task, loop: Loop) -> tuple[dict[str, float], float]:
    """The metrics of drift and forgetting that the run can have, and the seconds that they took. Uses the model up.

    What it cannot have is absent, and said. Raises Interrupted, between two sequences.
    """
    begin = time.perf_counter()
    if not starts_at_base(run):
        loop.context.say(f"training.drift: method={run.spec.method['name']} does not start at the base")
        return {}, time.perf_counter() - begin
    sees = _on_text(run, task, loop)
    after = sees(loop.model) if sees else None
    trained = _plain(run, loop.model)
    base = build.base(run.model, run.place, task.outputs, stream(run.spec.seed, "init"))
    base = precision.place(base, run.device, loop.context.dtype)
    before = sees(base) if sees else None
    found = _of_weights(run, trained, _widened(base), loop) | _of_outputs(before, after)
    return found, time.perf_counter() - begin


def starts_at_base(run: Run) -> bool:
    """Whether what the method trains comes from the base's weights, as they are or compressed."""
    return catalog.entry(run.spec.method["name"]).supports.starts_at_base or run.method.measures_base


def reads_a_text(run: Run) -> bool:
    """Whether the outputs are compared on a text: of loaded models alone, a drawn one has nothing to forget.

    A language model whose own data are that text learns it, and forgets nothing.
    """
    if not run.model.reads_text or run.model.is_drawn or not starts_at_base(run):
        return False
    return run.spec.dataset.get("source") != "stdlib"


def text(run: Run, config: Any) -> list[dict[str, Tensor]]:
    """The text in sequences as the model's own tokenizer gives them, special tokens included, (1, tokens) each.

    It is held out of the embedded corpus: the beginnings of source files of the standard library. Raises InputError
    where this Python has none, and where a token is beyond the vocabulary of the model's config.
    """
    tokenizer = load.tokenizer(run.place)
    most = min(TOKENS, tokenizer.model_max_length, fit.positions(config) or TOKENS)
    texts = stdlib_text.held_out(SEQUENCES, CHARACTERS)
    found = [dict(tokenizer(t, truncation=True, max_length=most, return_tensors="pt", verbose=False)) for t in texts]
    largest = max(int(sequence["input_ids"].max()) for sequence in found)
    if largest >= config.vocab_size:
        raise InputError(
            f"training.drift: the tokenizer gives token {largest} for its text, but the vocab_size of "
            f"model={run.model.name} is {config.vocab_size}; set it to false."
        )
    return found


def _on_text(run: Run, task: Task, loop: Loop) -> Callable[[nn.Module], Seen] | None:
    """A function from a model to what it makes of the text; None, which is said, where no text is read."""
    if not reads_a_text(run):
        if run.model.reads_text:
            why = "is drawn: it has nothing to forget" if run.model.is_drawn else "learns the text that is read"
            loop.context.say(f"training.drift: weights alone are compared: the model {why}")
        return None
    sees = token_loss if task.outputs.kind == "causal_lm" else final_states
    found = text(run, loop.model.config)
    return partial(sees, text=found, opened=loop.evaluation, check=loop.stop.check)


def _of_outputs(before: Seen | None, after: Seen | None) -> dict[str, float]:
    if isinstance(before, list) and isinstance(after, list):
        return {"drift_representation": representation_distance(after, before)}
    if isinstance(before, float) and isinstance(after, float):
        losses = {"forgetting_loss_before": before, "forgetting_loss_after": after}
        return {"forgetting_loss": after - before} | losses
    return {}


def _of_weights(run: Run, trained: nn.Module | None, base: nn.Module, loop: Loop) -> dict[str, float]:
    try:
        if trained is None:
            raise ValueError("the method's model cannot be merged")
        found = weight_distance(trained, base, loop.context.head)
    except ValueError as error:
        loop.context.say(f"training.drift: weights are not compared: {error}")
        return {}
    return {f"drift_weights{'' if group == 'all' else f'_{group}'}": value for group, value in found.items()}


@torch.no_grad()
def _plain(run: Run, model: nn.Module) -> nn.Module | None:
    """The trained model merged in float32 or better, None where it cannot be; in any case off the device."""
    model = _widened(model)
    if not catalog.entry(run.spec.method["name"]).supports.merge:
        return None
    with suppress(InputError):  # some settings of a method cannot be merged, where others can
        return run.method.finalize(dequantise(model))
    return None


def _widened(model: nn.Module) -> nn.Module:
    """The model on the CPU in float32 or better: the sum of a weight and a small change would be lost in bf16."""
    return precision.place(model, CPU, torch.promote_types(next(model.parameters()).dtype, torch.float32))
