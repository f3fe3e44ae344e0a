"""The bridge to PEFT: its tuners train, resume, merge and export like our own methods; what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

pytest.importorskip("peft")

from lrexp.cli import main
from lrexp.engine import checkpoint
from lrexp.laws.stopping import stop_after
from lrexp.layers import peft_tuner
from lrexp.layers.peft_config import tuner_names
from lrexp.linalg.random import ambient, generator
from lrexp.methods.adapters.lora import LoRA, LoRAHyperparameters
from lrexp.methods.adapters.peft import Peft, PeftHyperparameters
from lrexp.methods.base import Context, Decisions, Method
from lrexp.methods.catalog import families
from lrexp.plan.plan import plan
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError, Interrupted
from lrexp.spec.run_spec import RunSpec
from tests.commands.test_export import in_peft, inputs, logits, trained
from tests.conftest import Runner

SMALL: dict[str, dict[str, Any]] = {  # settings that fit layers of 16; the others have PEFT's own
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 20},
    "GRALORA": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "PSOFT": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TINYLORA": {"u": 4},
    "TRAINABLE_TOKENS": {"token_indices": (3, 4)},
    "UNILORA": {"theta_d_length": 16},
    "VBLORA": {"vector_length": 8, "num_vectors": 12},
    "VERA": {"r": 8},
    "WAVEFT": {"n_frequency": 20},
}
TARGETS = {"LN_TUNING": ("LayerNorm",), "TRAINABLE_TOKENS": ("word_embeddings",), "IA3": ("k", "v", "down")}
CONTEXT = Context(0, 9, torch.device("cpu"), torch.float32, head=("classifier",))
NO_DECISIONS = Decisions()
NO_MERGE = "LILY"


def bert() -> nn.Module:
    config = BertConfig(
        vocab_size=25, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with ambient(1):
        return BertForSequenceClassification(config)


def method(peft_type: str, **config: Any) -> Peft:
    wanted = TARGETS.get(peft_type, ("q", "v"))
    return Peft(PeftHyperparameters(peft_type, SMALL.get(peft_type, {}) | config, wanted))


def prepared(life: Method, context: Context = CONTEXT) -> nn.Module:
    return life.prepare(bert(), NO_DECISIONS, context)


def words(peft_type: str) -> tuple[str, ...]:
    wanted = f"method.target_modules=[{','.join(TARGETS.get(peft_type, ('q', 'v')))}]"
    config = {name: list(v) if isinstance(v, tuple) else v for name, v in SMALL.get(peft_type, {}).items()}
    settings = [f"method.config.{name}={value}" for name, value in config.items()]
    return ("method=peft", f"method.peft_type={peft_type}", wanted, *settings, "training.max_steps=4")


def outputs(model: nn.Module) -> Tensor:
    ids = torch.randint(0, 25, (6, 8), generator=generator(0, "ids"))
    return model(input_ids=ids).logits


def fit(model: nn.Module, steps: int = 2) -> list[float]:
    """Losses of some steps of AdamW on made-up labels."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    labels, losses = torch.tensor([0, 1, 0, 1, 1, 0]), []
    for step in range(steps):
        with ambient(step):
            loss = nn.functional.cross_entropy(outputs(model), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype, bool]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: (tuple(t.shape), t.dtype, t.requires_grad) for name, t in tensors}


@torch.no_grad()
def quiet_outputs(model: nn.Module) -> Tensor:
    return outputs(model.eval())


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's, of FRoD's sparse tensors
@pytest.mark.parametrize("peft_type", tuner_names())
def test_every_tuner_trains_is_kept_and_merges(peft_type: str) -> None:
    life = method(peft_type)
    model = prepared(life)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert shapes(method(peft_type).prepare(bert(), NO_DECISIONS, CONTEXT.on_shapes())) == shapes(model)
    untrained = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert len(set(fit(model))) == 2
    assert all(torch.equal(p, untrained[name]) for name, p in model.named_parameters() if name in untrained)
    adapted = quiet_outputs(model)
    again = prepared(method(peft_type))
    assert not torch.equal(quiet_outputs(again), adapted)
    checkpoint.load_model_state(again, checkpoint.model_state(model))
    assert torch.equal(quiet_outputs(again), adapted)
    if peft_type == NO_MERGE:
        with pytest.raises(InputError, match="cannot be merged into plain weights"):
            life.finalize(model)
        return
    plain = life.finalize(model)
    torch.testing.assert_close(quiet_outputs(plain), adapted, rtol=1e-5, atol=1e-5)
    assert {name: type(m) for name, m in plain.named_modules()} == {name: type(m) for name, m in bert().named_modules()}


@pytest.mark.parametrize("peft_type", ["LOHA", "LOKR", "BOFT", "OFT", "FOURIERFT", "IA3", "HRA", "LORA", "VBLORA"])
def test_stopped_and_resumed_equals_undisturbed(peft_type: str, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    _, undisturbed = run(*words(peft_type), to="undisturbed")
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        run(*words(peft_type), to="stopped")
    _, resumed = run(*words(peft_type), to="stopped")
    for name in ("adapter.safetensors", "metrics.jsonl"):
        assert (resumed / name).read_bytes() == (undisturbed / name).read_bytes()


def test_lora_of_peft_equals_ours_from_the_same_factors() -> None:
    ours = prepared(LoRA(LoRAHyperparameters(r=4, lora_alpha=8.0)))
    theirs = prepared(method("LORA", r=4, lora_alpha=8))
    factors = {n: p for n, p in ours.named_parameters() if "lora_" in n}
    own = dict(theirs.named_parameters())
    assert len(factors) == 8
    with torch.no_grad():
        for name, factor in factors.items():
            own[f"{name}.default.weight"].copy_(factor)
    assert {n for n, p in own.items() if p.requires_grad} == {
        f"{n}.default.weight" if n in factors else n for n, p in ours.named_parameters() if p.requires_grad
    }
    torch.testing.assert_close(fit(ours, 6), fit(theirs, 6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("peft_type", ["VERA", "VBLORA", "OFT", "IA3"])
def test_an_export_is_what_peft_loads(
    peft_type: str, run: Runner, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run(*words(peft_type))
    out = tmp_path / "out"
    assert main(["export", str(folder), "--to", "peft", "--out", str(out)]) == 0, capsys.readouterr().err
    assert json.loads((out / "lrexp_export.json").read_text())["largest_logit_difference"] < 1e-6
    batch = inputs(tiny_model)
    torch.testing.assert_close(logits(in_peft(tiny_model, out), batch), trained(folder, batch), rtol=0, atol=1e-6)


def test_draws_come_from_the_seed_alone() -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        context = Context(seed, 9, torch.device("cpu"), torch.float32, head=("classifier",))
        return {n: p.detach() for n, p in prepared(method("LORA"), context).named_parameters() if "lora_A" in n}

    with ambient(5):
        first = drawn(0)
        here = torch.get_rng_state()
    with ambient(6):
        before = torch.get_rng_state()
        second, other = drawn(0), drawn(1)
        assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(here, before)
    assert all(torch.equal(first[name], second[name]) and not torch.equal(first[name], other[name]) for name in first)


def test_a_config_from_the_command_line_is_kept_and_read_again() -> None:
    words = ["method.config.r=16", "method.config.vera_dropout=1e-1", "method.config.save_projection=false"]
    spec, _ = compose(["method=peft", *words], families())
    assert spec.method["config"] == {"r": 16, "vera_dropout": 0.1, "save_projection": False}
    tokens, _ = compose(["method=peft", "method.config.token_indices=[3,4]"], families())
    assert tokens.method["config"] == {"token_indices": [3, 4]}
    for each in (spec, tokens):
        assert RunSpec.parse(each.to_yaml({}), "spec.yaml")[0] == each


def test_a_plan_counts_what_the_tuner_has() -> None:
    def found(*words: str) -> Any:
        return plan(compose(["method=peft", *words], families())[0])

    small, large = found("method.config.r=8"), found("method.config.r=512")
    layers = large.trainable_parameters - small.trainable_parameters
    assert layers > 0 and layers % (512 - 8) == 0  # a vector of r a layer is trained, r x n is held
    assert large.memory["weights"] - small.memory["weights"] > 100 * layers


def test_a_step_that_looks_at_numbers_is_not_planned() -> None:
    with pytest.raises(InputError, match="cannot be planned on shapes"):
        plan(compose(list(words("WAVEFT")), families())[0])


@pytest.mark.parametrize(
    ("peft_type", "config", "said"),
    [
        ("VERRA", {}, "did you mean 'VERA'"),
        ("PREFIX_TUNING", {}, "prompt learning"),
        ("ADAPTION_PROMPT", {}, "prompt learning"),
        ("MULTITASK_PROMPT_TUNING", {}, "prompt learning"),
        ("ADALORA", {}, "a call of PEFT's in every step"),
        ("XLORA", {}, "adapters that are trained already"),
        ("VERA", {"dinitial": 0.2}, "did you mean 'd_initial'"),
        ("VERA", {"r": 2.5}, "config.r: 2.5 is not a whole number"),
        ("VERA", {"target_modules": ("query",)}, "set method.target_modules"),
        ("VERA", {"modules_to_save": ("classifier",)}, "head is trained"),
        ("LORA", {"base_model_name_or_path": "x"}, "set model.path"),
        ("LORA", {"megatron_core": "os"}, "names a module to import"),
        ("LORA", {"eva_config": "x"}, "a structure or a text"),
        ("LORA", {"init_lora_weights": "pissa"}, "method=pissa"),
        ("PEANUT", {"act_fn": "os.system"}, "Unsupported `act_fn`"),
        ("MISS", {"r": 64}, "must be less than or equal to in_features"),
    ],
)
def test_what_is_refused_is_said_in_one_line(peft_type: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Peft(PeftHyperparameters(peft_type, config)).prepare(bert(), NO_DECISIONS, CONTEXT)
    text = str(caught.value)
    assert said.lower() in text.lower() and "\n" not in text and text.startswith("method.")


def test_a_start_that_changes_the_base_is_refused() -> None:
    model = bert()
    targets = method("LORA").targets(model, CONTEXT)
    config = peft_tuner.make_config("LORA", {"init_lora_weights": "pissa"}, model, targets)
    with pytest.raises(InputError, match="changes the base's weights"):
        peft_tuner.inject(config, model, targets)


def test_a_part_of_a_fused_layer_is_refused_and_the_whole_taken() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=25, n_embd=16, n_layer=1, n_head=2, n_positions=16))
    context = Context(0, 1, torch.device("cpu"), torch.float32)
    with pytest.raises(InputError, match="fused layer, taken whole"):
        method("VERA").prepare(model, NO_DECISIONS, context)
    life = Peft(PeftHyperparameters("VERA", {"r": 8}, ("attention", "mlp")))
    adapted = life.prepare(model, NO_DECISIONS, context)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.normal_(generator=torch.Generator().manual_seed(0))
    before = quiet_outputs(adapted)
    torch.testing.assert_close(quiet_outputs(life.finalize(adapted)), before, rtol=1e-4, atol=1e-5)


def test_norms_are_named_for_ln_tuning() -> None:
    with pytest.raises(InputError, match=r"target_modules=\[LayerNorm\]"):
        prepared(Peft(PeftHyperparameters("LN_TUNING")))


def test_without_peft_one_line_says_what_to_install(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main(["train", *tiny, "method=peft", f"output_dir={tmp_path / 'out'}"]) == 2
    assert 'pip install "lrexp[peft]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_showing_and_listing_import_neither_torch_nor_peft() -> None:
    code = (
        "import sys; from lrexp.cli import main; main(['show', 'method=peft']); main(['list', 'methods']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'peft')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "peft_type" in done.stdout, done.stderr
