"""Train the small byte-level BPE tokenizer that ships, on the train modules of the standard library.

    python scripts/build_tokenizer.py --out lrexp/models/tokenizer

Byte-level: every text can be written, nothing is lost, so that losses per byte can be compared. The result depends on
the Python whose sources are read; a run records the tokenizer's hash.
"""

import argparse
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lrexp.tasks.language import LanguageData
from lrexp.tasks.sources.stdlib_text import read

SIZE = 2048
END = "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    texts = read(LanguageData("corpus", "stdlib"))["train"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=END, eos_token=END, pad_token=END, unk_token=END, model_max_length=1_000_000
    )
    tokenizer.save_pretrained(out)
    count = sum(len(tokenizer(text, verbose=False)["input_ids"]) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(texts)} files, {size} bytes, {count} tokens: {size / count:.2f} bytes a token")


if __name__ == "__main__":
    main()
