"""Instructions and questions: the loss of completions after their prompts, and the answers that the model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.tasks import answers
from lrexp.tasks.base import Batch, Item, Split
from lrexp.tasks.causal_lm import IGNORED, LanguageModelling, padded
from lrexp.tasks.generate import greedy
from lrexp.tasks.instruction import InstructionData
from lrexp.tasks.metrics import proportion


class Instruction(LanguageModelling):
    """Batches are those of language modelling with `attention_mask`, the labels of prompts left out.

    Where answers are asked for, they hold `prompt_ids` and `prompt_mask` (items, width), padded on the left, and
    `answer`, each item's place in `gold`, the right answers.
    """

    kind: ClassVar[str] = "instruction"

    def __init__(self, data: InstructionData, splits: dict[str, Split], tokenizer: Any, gold: tuple[str, ...]) -> None:
        super().__init__(splits, tokenizer, data.primary, data.metric_names)
        self.data, self.tokenizer, self.gold = data, tokenizer, gold
        self.pattern = answers.compiled(data.answer_pattern) if data.answer_pattern and data.generates else None

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Sequences padded on the right to a multiple of 8, or to max_length; prompts on the left."""
        whole = self.data.max_length if self.data.padding == "max_length" else None
        ids, is_token = padded([item["input_ids"] for item in items], self.pad, self.data.max_length, width=whole)
        is_target, _ = padded([item["is_target"] for item in items], 0, self.data.max_length, width=whole)
        sizes = [(item["bytes"] * item["is_target"])[1:].sum() for item in items]
        batch = {
            "input_ids": ids,
            "attention_mask": is_token.long(),
            "labels": ids.masked_fill(is_target == 0, IGNORED),
            "bytes": torch.from_numpy(np.array(sizes, np.int64)),
            "row": torch.from_numpy(np.array([item["row"] for item in items])),
        }
        if "prompt_ids" in items[0]:
            prompts, is_prompt = padded([item["prompt_ids"] for item in items], self.pad, left=True)
            batch |= {"prompt_ids": prompts, "prompt_mask": is_prompt.long()}
            batch["answer"] = torch.from_numpy(np.array([item["answer"] for item in items]))
        return batch

    def demands(self) -> dict[str, int]:
        """The longest sequence, and the longest prompt with what is written after it."""
        found = super().demands()
        prompts = [len(ids) for split in self.splits.values() for ids in getattr(split.items, "prompts", ())]
        if prompts and self.data.max_new_tokens:
            said = f"dataset.max_new_tokens is {self.data.max_new_tokens} after prompts of up to {max(prompts)} tokens"
            found[said] = self.data.max_new_tokens + max(prompts)
        return found

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """The columns of language modelling, over completions.

        Where answers are asked for also `generated` (text), `label` (the right answer), `prediction` (the answer in the
        text, or None) and `correct`.
        """
        columns = super().predict(model, batch)
        if self.pattern is None or "prompt_ids" not in batch:
            return columns
        count, end = self.data.max_new_tokens or 0, self.tokenizer.eos_token_id
        tokens = greedy(model, batch["prompt_ids"], batch["prompt_mask"], count, end).cpu().numpy()
        texts = [self.tokenizer.decode(row[: _end(row, end)], skip_special_tokens=True) for row in tokens]
        found = [answers.extract(self.pattern, text, self.data.answer_match) for text in texts]
        right = [self.gold[i] for i in batch["answer"].tolist()]
        pairs = zip(found, right, strict=True)
        is_correct = [one is not None and answers.same(one, gold, self.data.answer_tolerance) for one, gold in pairs]
        written = {"generated": texts, "label": right, "prediction": found}
        columns |= {name: np.array(values, dtype=object) for name, values in written.items()}
        return columns | {"correct": np.array(is_correct, bool)}

    def metrics(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Those of language modelling; `exact_match`, and `answered`: the share of texts with an answer in them."""
        found = super().metrics(predictions)
        if "correct" not in predictions:
            return found
        is_answered = np.array([answer is not None for answer in predictions["prediction"]])
        return proportion("exact_match", predictions["correct"]) | {"answered": float(is_answered.mean())} | found


def _end(tokens: np.ndarray, end: int) -> int:
    """How many tokens come before the first `end`."""
    places = np.flatnonzero(tokens == end)
    return int(places[0]) if len(places) else len(tokens)
