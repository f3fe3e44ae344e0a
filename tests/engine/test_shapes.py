"""A step on shapes holds what the same step with numbers holds, and leaves nothing fake behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from lrexp.engine import forward, shapes
from lrexp.engine.flops import Flops
from lrexp.engine.sampler import widest
from lrexp.engine.tensors import Tensors
from lrexp.engine.update import Update, with_optimizer
from lrexp.linalg import blockwise
from lrexp.methods import catalog
from lrexp.models import build
from tests.conftest import session

ADAMW8BIT = ("method=full", "optimizer=adamw8bit", "optimizer.min_8bit_size=64")
SETTINGS = [
    ("method=lora",),
    ("method=full", "training.gradient_accumulation_steps=2"),
    ("method=full", "training.gradient_checkpointing=true"),
    ("method=galore", "method.rank=4", "training.per_layer_updates=true", "training.max_grad_norm=null"),
    (*ADAMW8BIT, "hardware.precision=bf16_autocast"),
]


def on_shapes(tiny: list[str], folder: Path, *overrides: str) -> shapes.Step:
    of = session(tiny, folder, *overrides)
    task, run = of.task, of.run
    train = task.splits["train"]
    batch = task.collate([train.items[i] for i in widest(train, 8)])
    method = catalog.build(run.spec.method)
    with shapes.on_shapes() as tensors:
        model = build.empty(run.model, run.place, task.outputs, of.context.dtype)
        model = method.prepare(model, method.bound(model), of.context.on_shapes())
        return shapes.first_step(run.spec, task, method, model, of.context, batch, tensors)


def with_numbers(tiny: list[str], folder: Path, *overrides: str) -> int:
    """The peak of two real updates by the same count."""
    of = session(tiny, folder, *overrides)
    task, spec = of.task, of.run.spec
    train = task.splits["train"]
    collated = task.collate([train.items[i] for i in widest(train, 8)])
    model = of.prepare()
    forward.arrange(model, spec.training)
    model.train()
    gc.collect()
    with Tensors(shapes.CPU) as tensors:
        tensors.put([*model.parameters(), *model.buffers()], "weights")
        update = Update(spec, task, with_optimizer(spec, of.run.method, model, of.decisions), of.context)
        for step in range(2):
            batch: dict[str, Tensor] = {name: tensor.clone() for name, tensor in collated.items()}
            update.step(step, [batch] * spec.training.gradient_accumulation_steps)
    return sum(tensors.peak().values())


@pytest.mark.parametrize("overrides", SETTINGS, ids=lambda words: words[0].removeprefix("method=") + str(len(words)))
def test_shapes_hold_what_numbers_hold(overrides: tuple[str, ...], tiny: list[str], tmp_path: Path) -> None:
    planned = on_shapes(tiny, tmp_path / "run", *overrides)
    assert planned.peak == pytest.approx(with_numbers(tiny, tmp_path / "run", *overrides), rel=0.05)


def test_what_a_method_holds_beside_the_model_is_its_state(tiny: list[str], tmp_path: Path) -> None:
    planned = on_shapes(tiny, tmp_path / "run", "method=intrinsic_dimension", "method.projection=dense")
    of = session(tiny, tmp_path / "run", "method=intrinsic_dimension")
    D, d = sum(p.numel() for p in of.prepare().parameters()) - 750, 750
    assert planned.parts["method_state"] == 4 * D * d + 8 * d  # P, and the lengths of its columns in float64


def test_nothing_fake_is_left_in_what_is_kept(tiny: list[str], tmp_path: Path) -> None:
    blockwise._map_and_bounds.cache_clear()
    on_shapes(tiny, tmp_path / "run", *ADAMW8BIT)
    held = blockwise.quantise(torch.ones(300), True, 256)
    assert not isinstance(held.codes, FakeTensor) and int(held.codes[0]) == 255


def test_random_generators_stay_where_they_are(tiny: list[str], tmp_path: Path) -> None:
    before = torch.get_rng_state()
    on_shapes(tiny, tmp_path / "run", "method=full")
    assert torch.equal(torch.get_rng_state(), before)


def test_operations_are_those_of_the_products() -> None:
    x, W = torch.ones(5, 30, requires_grad=True), torch.ones(30, 20, requires_grad=True)
    q = torch.ones(2, 3, 16, 8, requires_grad=True)
    with Flops() as flops:
        (x @ W).sum().backward()
    assert flops.total == 3 * 2 * 5 * 30 * 20
    with Flops() as flops:
        F.scaled_dot_product_attention(q, q, q).sum()
    assert flops.total == 2 * 2 * (2 * 3) * 16 * 16 * 8


@pytest.mark.parametrize(
    ("device", "dtype", "masked", "is_formed"),
    [
        ("cpu", torch.float32, True, False),
        ("cuda", torch.float32, False, True),
        ("cuda", torch.bfloat16, False, False),
        ("cuda", torch.bfloat16, True, True),
    ],
)
def test_attention_is_that_of_the_device(device: str, dtype: torch.dtype, masked: bool, is_formed: bool) -> None:
    t, heads = 128, 8
    q = torch.zeros(1, heads, t, 8, dtype=dtype)
    mask = torch.ones(t, t, dtype=torch.bool) if masked else None
    with shapes.on_shapes() as tensors, shapes.Attention(device):
        begin = tensors.clock
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        assert (max(tensors.peak(begin).values()) >= heads * t * t * dtype.itemsize) is is_formed
