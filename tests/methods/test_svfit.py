"""SVFit: singular values move between frozen vectors, on the weight as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from lrexp.layers import decomposition
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.peft_format import plain_lora
from lrexp.methods.adapters.svfit import SVFit, SVFitHyperparameters
from lrexp.methods.base import Context, Decisions
from lrexp.spec.errors import InputError

KINDS: list[nn.Module] = [nn.Linear(12, 20), Conv1D(20, 12), nn.Conv2d(4, 6, 3), nn.Embedding(10, 8)]


def context(dtype: torch.dtype = torch.float32, cache: Path | None = None) -> Context:
    return Context(0, 1, torch.device("cpu"), dtype, cache=cache)


def method(**values: Any) -> SVFit:
    return SVFit(SVFitHyperparameters(**{"target_modules": "layer", **values}))


def prepared(base: nn.Module, dtype: torch.dtype = torch.float32, **values: Any) -> LoRALayer:
    layer = method(**values).prepare(nn.ModuleDict({"layer": base}), Decisions(), context(dtype))["layer"]  # type: ignore[index]
    assert isinstance(layer, LoRALayer) and layer.lora_E is not None
    return layer


def move(layer: LoRALayer) -> Tensor:
    """Changes the diagonal, and gives the change."""
    assert layer.lora_E is not None
    change = torch.randn(layer.lora_E.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    layer.lora_E.data += change
    return change


def inputs(base: nn.Module) -> Tensor:
    if isinstance(base, nn.Embedding):
        return torch.arange(10).view(2, 5)
    shape = (2, 4, 9, 9) if isinstance(base, nn.Conv2d) else (7, 12)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("r", [None, 3])
@pytest.mark.parametrize("base", KINDS, ids=lambda base: type(base).__name__)
def test_it_starts_at_the_base_and_merges(base: nn.Module, r: int | None) -> None:
    x, original = inputs(base), base.weight.clone()  # type: ignore[operator]
    expected = base(x)
    layer = prepared(base, r=r)
    assert torch.equal(layer(x), expected) and torch.equal(layer.weight, original)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["lora_E"]
    move(layer)
    assert not torch.allclose(layer(x), expected, atol=1e-3)
    assert torch.allclose(layer.merged()(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("param", ["additive", "multiplicative"])
def test_merged_weight_has_the_trained_singular_values(param: str) -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    S = torch.linalg.svdvals(base.weight)
    layer = prepared(base, torch.float64, param=param)
    change = move(layer)
    sigma = S + change if param == "additive" else S * (1 + change)
    found = torch.linalg.svdvals(layer.merged().weight)  # type: ignore[arg-type]
    assert torch.allclose(found, sigma.abs().sort(descending=True).values, atol=1e-12)


def test_gradient_is_that_of_the_singular_values() -> None:
    base = nn.Linear(12, 20, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(base.weight.detach(), full_matrices=False)
    layer = prepared(base, torch.float64, r=5)
    x, g = inputs(base).double(), torch.randn(7, 20, dtype=torch.float64)
    (layer(x) * g).sum().backward()
    assert layer.lora_E is not None and layer.lora_E.grad is not None
    assert torch.allclose(layer.lora_E.grad, (U.mT @ g.mT @ x @ Vh.mT).diag()[:5], atol=1e-12)


def test_bf16_holds_small_changes_of_large_values() -> None:
    base = nn.Linear(12, 20)
    base.weight.data *= 100
    layer = prepared(base.bfloat16(), torch.bfloat16)
    assert layer.lora_E is not None
    layer.lora_E.data += 1e-3  # sigma is of size 100, where the next number of bf16 is 0.5 away
    assert layer.delta_weight().detach().norm() == pytest.approx(1e-3 * 12**0.5, rel=0.02)


def test_null_is_the_largest_rank_of_a_slice() -> None:
    model = nn.ModuleDict({"c_attn": Conv1D(24, 12), "up_proj": nn.Linear(12, 40)})
    adapted = method(target_modules=("q", "v", "up"), rank_pattern={"up": 2}).prepare(model, Decisions(), context())
    assert adapted["c_attn"].r == 8 and adapted["c_attn"].blocks == 2  # type: ignore[index]
    assert adapted["up_proj"].r == 2  # type: ignore[index]


def test_a_finished_run_is_not_decomposed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    base = nn.Linear(12, 20)
    layer = prepared(base, r=4)
    move(layer)
    tensors = {f"layer.{name}": t for name, t in layer.state_dict().items() if not name.startswith("base.")}
    assert set(tensors) == {"layer.lora_A", "layer.lora_B", "layer.lora_E"}
    monkeypatch.setattr(decomposition, "exact_svd", None)
    model = method(r=4).reload(nn.ModuleDict({"layer": layer.base}), Decisions(), context(), tensors)
    model.load_state_dict(tensors, strict=False)
    assert torch.equal(model["layer"](inputs(base)), layer(inputs(base)))  # type: ignore[index]


def test_randomized_vectors_are_kept_by_their_question(tmp_path: Path) -> None:
    base = nn.Linear(12, 20)
    for values in ({}, {"svd": "randomized", "svd_niter": 0}):
        for _ in range(2):
            model = nn.ModuleDict({"layer": base})
            method(r=2, **values).prepare(model, Decisions(), context(cache=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_works_on_shapes_alone() -> None:
    with FakeTensorMode():
        layer = prepared(nn.Linear(12, 20))
        assert layer(torch.zeros(3, 12)).shape == (3, 20) and layer.lora_E is not None and layer.lora_E.shape == (12,)


def test_peft_holds_the_change_exactly() -> None:
    base = nn.Linear(12, 20)
    layer = prepared(base)
    move(layer)
    plain = plain_lora("layer", layer)
    assert (plain.r, plain.lora_alpha) == (12, 12.0)
    assert torch.allclose(plain.layer(base)(inputs(base)), layer(inputs(base)), atol=1e-5)


def test_wrong_values_are_refused() -> None:
    base = nn.Linear(12, 20)
    base.weight.data[3, 3] = float("nan")
    with pytest.raises(InputError, match="layer: the matrix has NaN"):
        prepared(base)
    with pytest.raises(InputError, match="choose r <= 12"):
        prepared(nn.Linear(12, 20), r=13)
    for values in ({"r": 0}, {"rank_pattern": {"q": 0}}, {"svd_niter": -1}, {"lr_multipliers": {"scale": 0.0}}):
        with pytest.raises(ValueError, match=r"is 0|is -1"):
            SVFitHyperparameters(**values)
