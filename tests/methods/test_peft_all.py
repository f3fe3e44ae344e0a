from __future__ import annotations
from pathlib import Path
from typing import Any
import pytest, torch
from lrexp.layers.peft_config import tuner_names
from lrexp.spec.errors import Interrupted, InputError
from lrexp.engine import checkpoint
from safetensors.torch import load_file
from tests.conftest import session
from tests.engine.stopping import stop_after
from tests.methods.test_laws import logits, weights, batch, shapes, prepared_on_shapes

SMALL = {"ADAMSS": ["r=8","num_subspaces=2"], "C3A": ["block_size=8"], "FOURIERFT": ["n_frequency=20"], "MISS": ["r=4"], "SHIRA": ["r=2"], "PSOFT": ["r=4","psoft_alpha=4"],
 "ROAD": ["group_size=8"], "VBLORA": ["vector_length=8","num_vectors=12"], "WAVEFT": ["n_frequency=20"], "VERA": ["r=8"], "PVERA": ["r=8"], "RANDLORA": ["r=4"],
 "OFT": ["oft_block_size=8"], "TINYLORA": ["r=2","u=4"], "UNILORA": ["theta_d_length=16"], "GRALORA": ["r=4"], "HIRA": ["r=4"], "LILY": ["r=4"], "PEANUT": ["r=4"],"SUPERTUNING":["sparsity=0.9"],
 "TRAINABLE_TOKENS": ["token_indices=[3,4]"]}
TARGETS = {"LN_TUNING": "[LayerNorm]", "TRAINABLE_TOKENS": "[word_embeddings]"}

def words(t):
    return ("method=peft", f"method.peft_type={t}", *(f"method.config.{w}" for w in SMALL.get(t, [])), f"method.target_modules={TARGETS.get(t,'[q,v]')}")

@pytest.mark.parametrize("t", tuner_names())
def test_all(t, run, tiny, tmp_path, monkeypatch):
    ws = words(t)
    _, undisturbed = run(*ws, to="undisturbed")
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        run(*ws, to="stopped")
    _, resumed = run(*ws, to="stopped")
    assert weights(resumed) == weights(undisturbed)
    assert (resumed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()

@pytest.mark.parametrize("t", tuner_names())
def test_merge(t, tiny, tmp_path):
    of = session(tiny, tmp_path, *words(t))
    p = of.prepare()
    real = shapes(p)
    assert shapes(prepared_on_shapes(of, None)) == real
    of.execute()
    inputs = batch(of)
    adapted = logits(of.model, inputs)
    again = session(tiny, tmp_path / "again", *words(t)).prepare()
    file = next(tmp_path.glob("*.safetensors"))
    kept = load_file(file)
    checkpoint.load_model_state(again, kept)
    torch.testing.assert_close(logits(again, inputs), adapted, rtol=0, atol=0)
    plain = of.run.method.finalize(of.model)
    torch.testing.assert_close(logits(plain, inputs), adapted, rtol=1e-5, atol=1e-5)
