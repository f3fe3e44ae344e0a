"""Writes text that a causal language model makes up itself: what it is at home in, where its own corpus is not at hand.

    python scripts/sample_text.py MODEL_FOLDER outputs/stories --train 1024 --validation 256

Each document is drawn token by token at temperature 1 from the model's beginning-of-text token, up to `--length` tokens
or its end. train.jsonl and validation.jsonl hold one document a line; they come from different seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 128


def documents(model: Any, tokenizer: Any, count: int, length: int, seed: int) -> list[str]:
    """That many texts drawn from the model, the same ones for a seed on one machine."""
    torch.random.default_generator.manual_seed(seed)
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    found: list[str] = []
    while len(found) < count:
        start = torch.full((BATCH, 1), tokenizer.bos_token_id)
        drawn = model.generate(
            start, max_new_tokens=length, do_sample=True, temperature=1.0, top_k=0, pad_token_id=tokenizer.eos_token_id
        )
        for row in drawn[:, 1:].tolist():
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            found.append(tokenizer.decode(row[:end]).strip())
    return found[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder written by save_pretrained")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1024, help="documents")
    parser.add_argument("--validation", type=int, default=256, help="documents")
    parser.add_argument("--length", type=int, default=255, help="tokens of a document at most")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(given.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    given.out.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "validation")):
        texts = documents(model, tokenizer, getattr(given, split), given.length, seed)
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (given.out / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{given.out / split}.jsonl: {len(texts)} documents, {len(lines.encode())} bytes")


if __name__ == "__main__":
    main()
