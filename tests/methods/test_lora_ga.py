"""LoRA-GA: the function is kept, the start is the gradient's, the first step is the best of its rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from lrexp.layers.adapted import adapted_layers
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.lora_linear import LoRAFused
from lrexp.linalg.running_product import CutProduct, DenseSum
from lrexp.methods.adapters.lora_ga import LoRAGA, LoRAGAHyperparameters
from lrexp.methods.base import Decisions
from lrexp.spec.errors import InputError
from tests.commands.test_export import exported, in_peft, inputs, logits, trained
from tests.methods.calibrated import batch, calibration, context, network, stopped_in_calibration, task_loss
from tests.methods.test_laws import weights

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")


def hyperparameters(**values: Any) -> LoRAGAHyperparameters:
    return LoRAGAHyperparameters(**{"r": 3, "target_modules": ALL, "calibration_batch_size": 2, **values})


def prepared(model: nn.Module, **values: Any) -> dict[str, LoRALayer]:
    method = LoRAGA(hyperparameters(**values))
    method.prepare(model, method.decide(model, context()), context())
    return adapted_layers(model)  # type: ignore[return-value]


def gradients(model: nn.Module, count: int = 8, size: int = 2) -> dict[str, Tensor]:
    """Gradients of the loss of all calibration batches together, by autograd, without dropout."""
    model.eval()
    task_loss(model, {"x": torch.cat([batch["x"] for batch in calibration("", count, size)])}).backward()
    return {name: model.get_submodule(name).weight.grad.double() for name in ALL}  # type: ignore[union-attr]


def space(columns: Tensor) -> Tensor:
    """The orthogonal projector on the columns' span."""
    Q = torch.linalg.qr(columns.double()).Q
    return Q @ Q.mT


@pytest.mark.parametrize(
    "values", [{}, {"scale": "unit", "direction": "ArBr"}, {"flavour": "peft"}, {"use_rslora": False}]
)
def test_the_function_and_the_model_s_modes_are_kept(values: dict[str, Any]) -> None:
    model, x = network(), batch(30, 3)
    model.drop.p = 0.0
    expected, original = model(x), {name: model.get_submodule(name).weight.clone() for name in ALL}  # type: ignore[operator]
    modes = [m.training for m in model.modules()]
    layers = prepared(model, **values)
    assert [m.training for m in model.modules() if not isinstance(m, LoRALayer)] == modes
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    for name, layer in layers.items():
        torch.testing.assert_close(layer.weight + layer.delta_weight(), original[name], rtol=0, atol=1e-5)
        assert not torch.allclose(layer.weight, original[name], atol=1e-4)


@pytest.mark.parametrize("direction", ["ArB2r", "A2rBr", "ArBr"])
def test_factors_are_scaled_singular_vectors_of_the_whole_gradient(direction: str) -> None:
    r, gamma = 3, 4.0
    layers = prepared(network(), direction=direction, stable_gamma=gamma, svd_niter=12)
    for name, G in gradients(network()).items():
        U, _, Vh = torch.linalg.svd(G, full_matrices=False)
        of_A = {"ArB2r": range(r), "A2rBr": range(r, 2 * r), "ArBr": range(1, 2 * r, 2)}[direction]
        of_B = [i for i in range(2 * r) if i not in of_A]
        c = G.shape[0] ** 0.25 / gamma**0.5
        A, B = layers[name].lora_A.detach().double() / c, layers[name].lora_B.detach().double() / c
        for found, exact in ((A, Vh[list(of_A)]), (B.mT, U[:, of_B].mT)):
            torch.testing.assert_close(found @ found.mT, torch.eye(r).double(), rtol=0, atol=1e-5)
            torch.testing.assert_close((found * exact).sum(1).abs(), torch.ones(r).double(), rtol=0, atol=1e-3)
            assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_a_random_split_uses_all_2r_directions_and_depends_on_the_seed() -> None:
    layers = prepared(network(), direction="random", svd_niter=12)
    others = network()
    method = LoRAGA(hyperparameters(direction="random", svd_niter=12))
    other = replace(context(), seed=1)
    method.prepare(others, method.decide(others, other), other)
    same = []
    for name, G in gradients(network()).items():
        U, _, Vh = torch.linalg.svd(G, full_matrices=False)
        A, B = layers[name].lora_A.detach().double(), layers[name].lora_B.detach().double()
        of_A = (A @ Vh[:6].mT).abs().argmax(1).tolist()
        of_B = (U[:, :6].mT @ B).abs().argmax(0).tolist()
        assert sorted(of_A + of_B) == list(range(6))
        same.append(torch.equal(layers[name].lora_A, adapted_layers(others)[name].lora_A))  # type: ignore[arg-type]
    assert not all(same)


def test_the_first_step_is_that_of_the_projected_gradient() -> None:
    layers, eta = prepared(network(), svd_niter=12), 1e-4
    for name, G in gradients(network()).items():
        layer, c2 = layers[name], G.shape[0] ** 0.5 / 16
        A, B, s = layer.lora_A.detach().double(), layer.lora_B.detach().double(), layer.scaling
        A1, B1 = A - eta * s * B.mT @ G, B - eta * s * G @ A.mT
        expected = -eta * s**2 * c2 * (space(B) @ G + G @ space(A.mT))
        change = s * (B1 @ A1 - B @ A)
        assert (change - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("scale", ["gd", "weightS"])
def test_other_scales(scale: str) -> None:
    layers = prepared(network(), scale=scale, svd_niter=12)
    for name in ALL:
        layer, S = layers[name], torch.linalg.svdvals(network().get_submodule(name).weight)  # type: ignore[arg-type]
        c = 1 / layer.scaling if scale == "gd" else (S[:3] / layer.scaling).sqrt().mean()
        for factor in (layer.lora_A, layer.lora_B.mT):
            gram = (factor @ factor.mT).detach()
            torch.testing.assert_close(gram, torch.eye(3) * c**2, rtol=1e-3, atol=1e-5)


def test_a_clipped_start_takes_out_no_more_than_the_weight_s_largest_entry() -> None:
    free, clipped = (prepared(network(), scale="unit", norm_clip=clip) for clip in (False, True))
    for name in ALL:
        largest = network().get_submodule(name).weight.abs().max()  # type: ignore[operator]
        before, after = (each[name].delta_weight().abs().max() for each in (free, clipped))
        assert before > largest
        torch.testing.assert_close(after, largest, rtol=1e-4, atol=0)


def test_2r_of_the_smaller_side_works_and_more_is_refused_before_the_run_too() -> None:
    assert prepared(network(), r=8)["up_proj"].r == 8
    model, method = network(), LoRAGA(hyperparameters(r=9))
    words = r"^r is 9 for q_proj, \(16, 16\): LoRA-GA takes 2 r singular vectors, so choose r <= 8$"
    with pytest.raises(InputError, match=words):
        method.decide(model, context())
    with FakeTensorMode(), pytest.raises(InputError, match=words):
        method.prepare(network(), method.bound(model), context().on_shapes())


def test_layers_that_cannot_have_it_are_refused() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.used, self.idle = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(InputError, match=r"^embed is a Embedding: LoRA-GA needs a Linear or Conv1D; leave it out$"):
        prepared(Strange(), target_modules="embed")
    with pytest.raises(InputError, match=r"^idle: the loss does not depend on it"):
        prepared(Strange(), target_modules=("used", "idle"))
    broken = network()
    with torch.no_grad():
        broken.o_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="_proj, gradient: the matrix has NaN"):
        prepared(broken)


def test_slices_of_a_fused_layer_have_gradients_of_their_own() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = Conv1D(48, 16)
            self.c_attn.weight.data = torch.linspace(-1, 1, 768).view(16, 48).sin()

        def forward(self, x: Tensor) -> Tensor:
            return self.c_attn(x) + x.repeat(1, 1, 3)

    model, one = Fused(), Fused()
    layer = prepared(model, target_modules=("q", "v"))["c_attn"]
    assert isinstance(layer, LoRAFused) and layer.lora_A.shape == (6, 16)
    task_loss(one, {"x": torch.cat([batch["x"] for batch in calibration("", 8, 2)])}).backward()
    assert one.c_attn.weight.grad is not None
    for A, G in zip(layer.factors()[0], (one.c_attn.weight.grad.mT[:16], one.c_attn.weight.grad.mT[32:]), strict=True):
        exact = torch.linalg.svd(G)[2][:3]
        assert torch.linalg.svdvals(A / A.norm(dim=1, keepdim=True) @ exact.mT).min() > 0.99


def test_a_gradient_larger_than_its_product_is_never_built() -> None:
    method = LoRAGA(hyperparameters(r=1, target_modules=("up_proj", "down_proj")))
    model = network(d=16, h=600)
    held = {name: type(method.sums(model, name, (), 1, context())[0]) for name in ("q_proj", "up_proj")}
    assert held == {"q_proj": DenseSum, "up_proj": DenseSum}  # 16 x 600 numbers, and 32 rows of 616
    wide = LoRAGA(hyperparameters(r=1)).sum(600, 600, 1, "wide", context())
    assert isinstance(wide, CutProduct)
    for i in range(4):
        wide.add(batch(i, 8, 600).flatten(0, 1), batch(9 + i, 8, 600).flatten(0, 1))
        assert len(wide.g) <= 32


def test_it_is_cut_to_nearly_the_whole_gradient_s_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrexp.linalg.running_product.LENGTH", 1)
    sums = {name: type(LoRAGA(hyperparameters(r=1)).sums(network(), name, (), 1, context())[0]) for name in ALL}
    assert CutProduct in sums.values()
    cut = prepared(network(), r=1, direction="A2rBr")
    monkeypatch.undo()
    whole = prepared(network(), r=1, direction="A2rBr")
    for name in (name for name, held in sums.items() if held is CutProduct):
        for one, other in ((cut[name].lora_A, whole[name].lora_A), (cut[name].lora_B.mT, whole[name].lora_B.mT)):
            assert torch.cosine_similarity(one, other).abs().min() > 0.95


@pytest.mark.parametrize(
    "values",
    [{"stable_gamma": 0.0}, {"svd_niter": -1}, {"calibration_batches": 0}, {"calibration_batch_size": 0}],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values)) + " is "):
        replace(LoRAGAHyperparameters(), **values)
    with pytest.raises(ValueError, match="scale is weightS: flavour peft has"):
        LoRAGAHyperparameters(scale="weightS", flavour="peft")


def test_nothing_is_decided_on_shapes_alone() -> None:
    with FakeTensorMode():
        model = network()
        method = LoRAGA(hyperparameters())
        method.prepare(model, Decisions(), context().on_shapes())
        assert {layer.lora_A0.shape[0] for layer in adapted_layers(model).values()} == {3}  # type: ignore[union-attr]


def test_stopped_in_its_calibration_it_starts_over_and_ends_with_the_same_bytes(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, whole = run("method=lora_ga", to="whole")
    stopped_in_calibration(run, "lora_ga", monkeypatch)
    assert not list((tmp_path / "stopped" / "checkpoints").iterdir())
    _, stopped = run("method=lora_ga", to="stopped")
    assert weights(stopped) == weights(whole)
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("setting", [(), ("method.use_rslora=false", "method.rank_pattern={q: 3}")])
def test_peft_gives_the_run_s_logits(setting: tuple[str, ...], run: Any, tiny_model: Path, tmp_path: Path) -> None:
    words = ("method=lora_ga", "method.r=4", "method.target_modules=all-linear", "training.learning_rate=3e-2")
    _, folder = run(*words, *setting)
    assert exported(folder, "peft", tmp_path / "out")["largest_logit_difference"] < 1e-5
    found = logits(in_peft(tiny_model, tmp_path / "out"), inputs(tiny_model))
    torch.testing.assert_close(found, trained(folder, inputs(tiny_model)), rtol=0, atol=1e-5)
