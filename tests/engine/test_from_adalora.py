"""A run goes on from an AdaLoRA that PEFT made, with triplets pruned, ends as an adapter that PEFT loads again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lrexp.cli import main
from lrexp.commands.eval import find
from lrexp.commands.eval import trained as reloaded
from lrexp.linalg.random import ambient
from lrexp.spec.errors import InputError
from tests.conftest import sentences

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::FutureWarning")
WORDS = (
    "method=adalora", "method.init_r=4", "method.lora_alpha=6", "method.target_modules=[q,up]",
    "model.head=[classifier]", "seed=9",
)  # fmt: skip
GONE = "bert.encoder.layer.0.intermediate.dense"  # all its triplets are pruned


@pytest.fixture(scope="module")
def batch(tiny_model: Path) -> dict[str, Tensor]:
    texts = [row["sentence"] for row in sentences(12, 500)]
    return dict(AutoTokenizer.from_pretrained(tiny_model)(texts, padding=True, return_tensors="pt"))


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, batch: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in PEFT from 16 triplets in 4 layers to 4; E and the head grown, so that they say something."""
    from peft import AdaLoraConfig, get_peft_model

    place = tmp_path_factory.mktemp("peft") / "adapter"
    config = AdaLoraConfig(
        init_r=4, target_r=1, tinit=1, tfinal=2, deltaT=1, total_step=8, lora_alpha=6,
        target_modules=["query", "intermediate.dense"], modules_to_save=["classifier"], task_type="SEQ_CLS",
    )  # fmt: skip
    with ambient(3):
        base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
        model: Any = get_peft_model(base, config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-2)
        labels = torch.arange(12) % 2
        for step in range(1, 9):
            model(**batch, labels=labels).loss.backward()
            optimizer.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
    pattern = model.peft_config["default"].rank_pattern
    pattern[f"{GONE}.lora_E.default"] = [False] * 4
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_E" in name or "modules_to_save" in name:
                p *= 30
    model.save_pretrained(str(place))
    return place


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def in_peft(tiny_model: Path, place: Path, batch: dict[str, Tensor]) -> Tensor:
    from peft import PeftModel

    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    return logits(PeftModel.from_pretrained(base, place), batch)


def ours(folder: Path, batch: dict[str, Tensor]) -> Tensor:
    return logits(reloaded(find(folder, []))[1], batch)


def test_peft_s_logits_come_in_and_go_out(
    run: Any, adapter: Path, tiny_model: Path, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    theirs = in_peft(tiny_model, adapter, batch)
    line = (*WORDS, f"init_from={adapter}", "method.target_r=2")
    result, start = run(*line, "training.max_steps=0", to="start")
    torch.testing.assert_close(ours(start, batch), theirs, rtol=0, atol=1e-5)
    assert any("an adapter in PEFT's format" in mark for mark in result["marks"])
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    base.classifier = reloaded(find(start, []))[1].classifier
    assert (logits(base, batch) - theirs).abs().max() > 0.03  # the adapter says something
    result, end = run(*line, to="end")
    assert result["metrics"]["method_mean_rank"] == 2
    assert (ours(end, batch) - theirs).abs().max() > 0.03
    assert main(["export", str(end), "--to", "peft", "--out", str(tmp_path / "out")]) == 0
    torch.testing.assert_close(in_peft(tiny_model, tmp_path / "out", batch), ours(end, batch), rtol=0, atol=1e-5)


def test_triplets_lie_where_they_were_and_pruned_ones_begin_anew(run: Any, adapter: Path) -> None:
    line = (*WORDS, "training.max_steps=0")
    _, fresh = run(*line, to="fresh")
    _, start = run(*line, f"init_from={adapter}", to="start")
    drawn, found = (load_file(folder / "adapter.safetensors") for folder in (fresh, start))
    held = load_file(adapter / "adapter_model.safetensors")
    pattern = json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]
    assert sorted(map(sum, pattern.values())) != [4] * 4 and not any(pattern[f"{GONE}.lora_E"])
    for key, flags in pattern.items():
        name, left = key.removesuffix(".lora_E"), torch.tensor(flags)
        A, B, E = (found[f"{name}.{part}"] for part in ("lora_A", "lora_B", "lora_E"))
        theirs = {part: held[f"base_model.model.{name}.{part}"] for part in ("lora_A", "lora_B", "lora_E")}
        assert torch.equal(A[left], theirs["lora_A"]) and torch.equal(B[:, left], theirs["lora_B"])
        torch.testing.assert_close(E[left], theirs["lora_E"].flatten() * 4 / (4 + 1e-5), rtol=2e-7, atol=0)
        assert torch.equal(A[~left], drawn[f"{name}.lora_A"][~left]) and not E[~left].any()
        assert torch.equal(B[:, ~left], drawn[f"{name}.lora_B"][:, ~left])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=lora",), "is an AdaLoRA on the original base: take method=adalora."),
        (("method.init_r=3",), "number of triplets at bert.encoder.layer.0"),
        (("method.init_r=3",), "this run's 3: method.init_r=4."),
        (("method.lora_alpha=5",), "is 1.5, here 1.25: method.lora_alpha=6."),
        (("method.use_rslora=true",), "is 1.5, here 3: method.lora_alpha=6 method.use_rslora=false."),
        (("method.target_modules=[q]",), f"the adapter alone adapts {GONE}"),
    ],
)
def test_another_function_is_refused(
    words: tuple[str, ...], said: str, run: Any, adapter: Path, tmp_path: Path
) -> None:
    line = {word.partition("=")[0]: word for word in (*WORDS, *words)}
    if "method=lora" in words:
        line.pop("method.init_r")
    with pytest.raises(InputError) as error:
        run(*line.values(), f"init_from={adapter}")
    assert said in str(error.value) and not (tmp_path / "run").exists()


def test_files_that_do_not_belong_together_are_refused(run: Any, adapter: Path, tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    shutil.copytree(adapter, place)
    config = json.loads((place / "adapter_config.json").read_text())
    for pattern, said in (
        ([True] * 4, r"are not the 4 triplets that adapter_config\.json leaves of 4"),
        ([True] * 3, r"rank_pattern of .* is no list of 4 bools"),
        (2, r"rank_pattern of .* is no list of 4 bools"),
    ):
        other = config | {"rank_pattern": config["rank_pattern"] | {f"{GONE}.lora_E": pattern}}
        (place / "adapter_config.json").write_text(json.dumps(other))
        with pytest.raises(InputError, match=said):
            run(*WORDS, f"init_from={place}")
    (place / "adapter_config.json").write_text(json.dumps(config))
    held = load_file(place / "adapter_model.safetensors")
    del held[f"base_model.model.{GONE}.lora_E"]
    save_file(held, place / "adapter_model.safetensors")
    with pytest.raises(InputError, match=rf"lora_B of {GONE} are not the 0 triplets"):
        run(*WORDS, f"init_from={place}")


def test_a_file_of_one_that_was_never_pruned(
    run: Any, tiny_model: Path, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    from peft import AdaLoraConfig, get_peft_model

    config = AdaLoraConfig(
        init_r=4, total_step=9, lora_alpha=6, target_modules=["query", "intermediate.dense"], task_type="SEQ_CLS",
        init_lora_weights=False, use_rslora=True,
    )  # fmt: skip
    with ambient(4):
        base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
        model: Any = get_peft_model(base, config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p *= 0.3 if "lora_" in name else 1
    model.save_pretrained(str(tmp_path / "adapter"))
    _, start = run(*WORDS, f"init_from={tmp_path / 'adapter'}", "training.max_steps=0")
    torch.testing.assert_close(ours(start, batch), in_peft(tiny_model, tmp_path / "adapter", batch), rtol=0, atol=1e-5)
