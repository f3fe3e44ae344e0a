"""lrexp export --to peft --rank R: what is no LoRA as the best LoRA of a rank, and what that loses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lrexp.cli import main
from lrexp.commands.eval import find
from lrexp.commands.eval import trained as reloaded
from lrexp.linalg.random import ambient
from lrexp.methods.catalog import families
from lrexp.models import load
from lrexp.models.model_spec import read
from lrexp.spec.compose import compose
from tests.conftest import sentences

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of tied weights
Run = tuple[Path, nn.Module]  # its folder, and its plain model
SETTINGS = {
    "full": (),
    "galore": (),
    "said": (),
    "intrinsic_dimension": (),
    "salt": ("method.relu=all",),
    "lora": ("method.target_modules=all-linear",),
}


def export(folder: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["export", str(folder), "--to", "peft", "--out", str(out), *more]) == 0
    return json.loads((out / "lrexp_export.json").read_text())


def plain(folder: Path) -> nn.Module:
    source = find(folder, [])
    return source.run.method.finalize(reloaded(source)[1])


def base(model: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)


def in_peft(model: Path, place: Path) -> nn.Module:
    from peft import PeftModel

    return PeftModel.from_pretrained(base(model), place)


def compared(model: Path) -> dict[str, Tensor]:
    """The sentences of the tiny data's validation split, on which an export is compared."""
    texts = [row["sentence"] for row in sentences(20, 100)]
    return dict(AutoTokenizer.from_pretrained(model)(texts, padding=True, return_tensors="pt"))


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits.float()


@pytest.mark.parametrize("method", SETTINGS)
def test_a_rank_that_suffices_loses_nothing(method: str, run: Any, tiny_model: Path, tmp_path: Path) -> None:
    _, folder = run(f"method={method}", *SETTINGS[method], "training.learning_rate=3e-2")
    about = export(folder, tmp_path / "out", "--rank", "99")
    batch = compared(tiny_model)
    expected = logits(plain(folder), batch)
    torch.testing.assert_close(logits(in_peft(tiny_model, tmp_path / "out"), batch), expected, rtol=0, atol=1e-5)
    assert about["largest_logit_difference"] < 1e-5 and about["truncated"]["worst_relative_error"] < 1e-4
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    moves_all = method in ("full", "galore", "said", "intrinsic_dimension")
    assert ("bert.embeddings.LayerNorm" in config["modules_to_save"]) == moves_all
    assert (config["bias"] == "lora_only") == moves_all
    assert ("bert.embeddings.word_embeddings" in config["target_modules"]) == moves_all
    assert (logits(base(tiny_model), batch) - expected).abs().max() > 1e-3


def test_it_is_the_best_of_its_rank_and_says_what_it_loses(
    run: Any, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run("method=full", "training.learning_rate=3e-2")
    about = export(folder, tmp_path / "out", "--rank", "2")
    printed = capsys.readouterr().out
    before, after = base(tiny_model).state_dict(), plain(folder).state_dict()
    held = load_file(tmp_path / "out" / "adapter_model.safetensors")
    names = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    left, whole = {}, {}
    for name in names:
        change = (after[f"{name}.weight"] - before[f"{name}.weight"]).double()
        prefix = f"base_model.model.{name}.lora_"
        is_table = f"{prefix}embedding_A" in held
        A, B = (held[f"{prefix}embedding_{part}" if is_table else f"{prefix}{part}.weight"].double() for part in "AB")
        assert A.shape[0] == B.shape[1] == 2
        left[name] = float(((change.T if is_table else change) - B @ A).norm())
        whole[name] = float(change.norm())
        assert left[name] == pytest.approx(float(torch.linalg.svdvals(change)[2:].norm()), rel=1e-3, abs=1e-6)
    relative = {name: left[name] / whole[name] for name in names}
    cut = about["truncated"]
    assert (cut["rank"], cut["layers"], cut["worst_layer"]) == (2, len(names), max(names, key=relative.__getitem__))
    assert cut["worst_relative_error"] == pytest.approx(max(relative.values()), rel=1e-3)
    together = sum(v**2 for v in left.values()) ** 0.5 / sum(v**2 for v in whole.values()) ** 0.5
    assert 0.1 < cut["relative_error"] == pytest.approx(together, rel=1e-3)
    assert f"rank 2 loses {together:.2g} of the change of {len(names)} matrices" in printed
    assert f"the worst, {cut['worst_layer']}, {cut['worst_relative_error']:.2g}" in printed
    batch = compared(tiny_model)
    found = logits(in_peft(tiny_model, tmp_path / "out"), batch) - logits(plain(folder), batch)
    assert float(found.abs().max()) == pytest.approx(about["largest_logit_difference"], rel=1e-3)
    assert about["largest_logit_difference"] > 1e-3


def test_an_adapter_of_a_higher_rank_is_cut(run: Any, tmp_path: Path) -> None:
    _, folder = run("method=pissa", "method.r=4", "training.learning_rate=3e-2")
    found = [export(folder, tmp_path / str(r), "--rank", str(r))["truncated"]["relative_error"] for r in (2, 4, 8)]
    assert found[0] > found[1] > 1e-2 > 1e-4 > found[2]  # PiSSA changes its base by a matrix of rank 2r
    assert export(folder, tmp_path / "exact")["truncated"] is None


def test_a_run_in_bf16_is_compared_with_its_rounded_base(run: Any, tmp_path: Path) -> None:
    _, folder = run("method=lora", "hardware.precision=bf16", "training.learning_rate=3e-2")
    cut = export(folder, tmp_path / "out", "--rank", "8")["truncated"]
    assert cut["layers"] == 4 and cut["worst_relative_error"] < 1e-3  # the base's own rounding is no change


def test_tied_weights_and_transposed_layers(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import GPT2Config, GPT2LMHeadModel

    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation"):
        (data / f"{name}.txt").write_text("def double(x):\n    return x + x\n" * 40, encoding="utf-8")
    words = [
        "method=full", "dataset=text", f"dataset.path={data}", "dataset.max_length=16", "training.max_steps=4",
        "training.per_device_train_batch_size=4", "training.learning_rate=1e-2", "hardware=cpu",
    ]  # fmt: skip
    place = tmp_path / "gpt2"
    tokenizer: Any = load.tokenizer(load.place(read(compose(["model=llama_tiny", *words], families())[0].model)))
    tokenizer.save_pretrained(place)
    size = len(tokenizer)
    with ambient(0):
        GPT2LMHeadModel(
            GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
        ).save_pretrained(place)
    line = ["train", "model=decoder", f"model.path={place}", *words, f"output_dir={tmp_path / 'run'}"]
    assert main(line) == 0
    about = export(tmp_path / "run", tmp_path / "out", "--rank", "16")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {"transformer.wte", "lm_head", "transformer.h.0.attn.c_attn"} <= set(config["target_modules"])
    assert about["largest_logit_difference"] < 1e-5
    batch = {"input_ids": torch.arange(24).view(2, 12)}
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place), tmp_path / "out")
    expected = logits(plain(tmp_path / "run"), batch)
    torch.testing.assert_close(logits(theirs, batch), expected, rtol=0, atol=1e-5)
    assert (logits(AutoModelForCausalLM.from_pretrained(place), batch) - expected).abs().max() > 1e-2


def test_what_has_no_approximation_is_refused(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = {
        name: run(f"method={name}", *more, to=name)[1]
        for name, more in {
            "full": ("training.max_steps=0",),
            "salt": ("method.relu=all",),
            "svd_compress": ("training.max_steps=0",),
        }.items()
    }
    out = str(tmp_path / "out")
    for name, more, said in (
        ("full", (), "method=full leaves no adapter that PEFT could hold: take --to merged, or --rank R for the best"),
        ("salt", (), "has no form: take --to merged, or --rank R for the best adapter of that rank."),
        ("svd_compress", (), "method=svd_compress leaves no adapter that PEFT could hold: take --to merged."),
        ("svd_compress", ("--rank", "2"), "method=svd_compress has no change of the base that could be approximated"),
        ("full", ("--rank", "2"), "no matrix but the head's has changed: there is nothing to approximate: take"),
        ("full", ("--rank", "0"), "--rank 0: it is at least 1, and goes with --to peft."),
        ("full", ("--rank", "2", "--to", "merged"), "--rank 2: it is at least 1, and goes with --to peft."),
    ):
        capsys.readouterr()
        assert main(["export", str(folders[name]), "--to", "peft", "--out", out, *more]) == 2
        printed, err = capsys.readouterr()
        assert (printed, len(err.splitlines())) == ("", 1) and said in err
    assert not Path(out).exists()
