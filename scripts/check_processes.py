"""Two processes beside one with the whole batch, method by method: largest difference of losses and of trained weights.

    python scripts/check_processes.py  # full lora pissa galore said (a small BERT), sltrain (a small LLaMA)
    python scripts/check_processes.py lora --steps 50 hardware=cuda

20 steps in float64 and once more in float32. GaLore's rank stays below that of the gradients: beyond it a projector's
directions are those of rounding, and two ways to sum give two projectors. Arguments with an equals sign go to the runs.
Exit code 1 if weights differ by more than 1e-10 in float64, or losses by more than 1e-5 in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import lrexp

ENCODER = ("dataset.max_train_samples=100", "dataset.max_eval_samples=20", "training.learning_rate=1e-3")
DECODER = (
    "model=llama_tiny", "model.config.hidden_size=32", "model.config.intermediate_size=48",
    "model.config.num_hidden_layers=2", "dataset=corpus", "dataset.max_length=32", "dataset.max_eval_samples=20",
)  # fmt: skip
SETTINGS = {
    "full": ENCODER,
    "lora": ENCODER,
    "pissa": ENCODER,
    "galore": (*ENCODER, "method.rank=4"),
    "said": ENCODER,
    "sltrain": DECODER,
}
LIMITS = {"float64": ("weights", 1e-10), "float32": ("losses", 1e-5)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    methods = [word for word in options.words if "=" not in word] or list(SETTINGS)
    more = [word for word in options.words if "=" in word]
    missed = False
    for method in methods:
        for precision, (what, limit) in LIMITS.items():
            found = differences(method, precision, options.steps, more)
            missed |= found[what] > limit
            print(f"{method:<8} {precision}  losses {found['losses']:.1e}  weights {found['weights']:.1e}", flush=True)
    return int(missed)


def differences(method: str, precision: str, steps: int, more: list[str]) -> dict[str, float]:
    """The largest difference of a step's loss and of a trained weight between one process and two."""
    words = [f"method={method}", *SETTINGS[method], f"training.max_steps={steps}", "training.logging_steps=1"]
    words += [f"hardware.precision={precision}", "hardware.threads=1", *more]
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for size in (1, 2):
            folders[size] = Path(place) / str(size)
            batch = f"training.per_device_train_batch_size={16 // size}"
            lrexp.run(lrexp.compose([*words, batch, f"hardware.processes={size}"]), output_dir=str(folders[size]))
        weights = {size: load_file(next(folder.glob("*.safetensors"))) for size, folder in folders.items()}
        losses = {size: _losses(folder) for size, folder in folders.items()}
    return {
        "losses": float((torch.tensor(losses[1]) - torch.tensor(losses[2])).abs().max()),
        "weights": max(float((t.double() - weights[2][name].double()).abs().max()) for name, t in weights[1].items()),
    }


def _losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


if __name__ == "__main__":
    sys.exit(main())
