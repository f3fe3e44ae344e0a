"""SVD compression: ranks for a budget, the error that it should have, repair, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lrexp.layers.factorised import FactorisedLinear, factorised_layers
from lrexp.layers.lora_factors import merge_factors
from lrexp.linalg.random import ambient, generator
from lrexp.methods.base import Context, Decisions
from lrexp.methods.compression import svd_compress
from lrexp.methods.compression.svd_compress import SVDCompress, SVDCompressHyperparameters
from lrexp.spec.errors import InputError
from tests.conftest import session


class Chain(nn.Module):
    """q and k on one input, then a Conv1D and a last: every shape wide or tall."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(12, 20), nn.Linear(12, 20, bias=False)
        self.mix, self.last = Conv1D(30, 20), nn.Linear(30, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.mix(torch.tanh(self.q(x) * self.k(x)))))


def chain() -> Chain:
    with ambient(1):
        model = Chain()
        model.mix.weight.data *= 20
    return model


def calibration(name: str, count: int, size: int) -> Iterator[dict[str, Tensor]]:
    for i in range(count):
        yield {"x": torch.randn(size, 12, generator=generator(0, name, i)) * torch.linspace(0.1, 4, 12)}


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["x"])


CONTEXT = Context(0, 1, torch.device("cpu"), torch.float32, task_loss=run, calibration=calibration)


def method(**values: Any) -> SVDCompress:
    return SVDCompress(SVDCompressHyperparameters(**{"target_modules": ("all-linear",), **values}))


def prepared(context: Context = CONTEXT, **values: Any) -> nn.Module:
    life, model = method(**values), chain()
    return life.prepare(model, life.decide(model, context), context)


def inputs() -> Tensor:
    return torch.cat([batch["x"] for batch in calibration("svd_compress", 16, 16)])


@pytest.mark.parametrize("whitening", ["none", "asvd", "svd_llm"])
def test_every_target_has_the_rank_of_the_ratio(whitening: str) -> None:
    layers = factorised_layers(prepared(keep_ratio=0.5, whitening=whitening))
    assert {name: layer.r for name, layer in layers.items()} == {"q": 3, "k": 3, "mix": 6, "last": 4}


def test_a_ratio_that_saves_nothing_leaves_the_model_alone() -> None:
    for keep_ratio in (1.2, 3.0):
        model = prepared(keep_ratio=keep_ratio)
        assert not factorised_layers(model)
        assert torch.equal(model(inputs()), chain()(inputs()))


def test_plain_error_is_what_the_spectrum_drops() -> None:
    for name, layer in factorised_layers(prepared(keep_ratio=0.5, whitening="none")).items():
        base = chain().get_submodule(name)
        W: Tensor = base.weight.T if isinstance(base, Conv1D) else base.weight  # type: ignore[assignment, union-attr]
        dropped = torch.linalg.svdvals(W.detach())[layer.r :].square().sum()
        torch.testing.assert_close((W - layer.dense_weight()).square().sum(), dropped, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("whitening", ["none", "svd_llm"])
def test_a_randomized_svd_comes_near_the_exact_product(whitening: str) -> None:
    exact = factorised_layers(prepared(keep_ratio=0.5, whitening=whitening))
    plain = {"svd": "randomized", "svd_niter": 0, "svd_oversampling": 0}
    rough = factorised_layers(prepared(keep_ratio=0.5, whitening=whitening, **plain))
    near = factorised_layers(prepared(keep_ratio=0.5, whitening=whitening, svd="randomized"))
    for name, layer in exact.items():
        torch.testing.assert_close(near[name].dense_weight(), layer.dense_weight(), rtol=1e-3, atol=1e-4)
        assert (rough[name].dense_weight() - layer.dense_weight()).norm() > 0.01 * layer.dense_weight().norm()


def test_whitened_error_on_the_calibration_data_is_the_least() -> None:
    x = inputs()
    errors = {}
    for whitening in ("none", "asvd", "svd_llm"):
        model = prepared(keep_ratio=0.5, whitening=whitening)
        errors[whitening] = float((model.q(x) - chain().q(x)).detach().square().sum())  # type: ignore[operator]
    assert errors["svd_llm"] < errors["asvd"] < errors["none"]
    moment = x.double().T @ x.double()
    S = torch.linalg.cholesky(moment)
    dropped = torch.linalg.svdvals(chain().q.weight.detach().double() @ S)[3:].square().sum()
    assert errors["svd_llm"] == pytest.approx(float(dropped), rel=1e-4)


def test_order_decides_whose_inputs_are_seen() -> None:
    """The first layer is the same; the last sees the original model's inputs, or those after compression."""
    one, two = (prepared(keep_ratio=0.5, sequential=sequential) for sequential in (False, True))
    assert torch.equal(one.q.A, two.q.A)  # type: ignore[union-attr, arg-type]
    assert not torch.allclose(one.last.A, two.last.A)  # type: ignore[union-attr, arg-type]
    alone = prepared(keep_ratio=0.5, target_modules=("last",))
    assert torch.equal(one.last.A, alone.last.A)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(("least", "passes"), [(0, 2), (1 << 20, 1)])
def test_statistics_come_in_as_few_passes_as_memory_allows(
    least: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments of 12, 20 and 30 inputs: 1,152 and 3,200 bytes go together within the 7,200 of the largest."""
    expected = prepared(keep_ratio=0.5, sequential=False).state_dict()
    monkeypatch.setattr(svd_compress, "LEAST", least)
    asked: list[int] = []

    def counted(name: str, count: int, size: int) -> Iterator[dict[str, Tensor]]:
        asked.append(count)
        return calibration(name, count, size)

    found = prepared(replace(CONTEXT, calibration=counted), keep_ratio=0.5).state_dict()
    assert asked == [1, *[16] * passes]  # the first finds the groups
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_names_are_packed_in_their_order() -> None:
    assert svd_compress.packed({"a": 5, "b": 9, "c": 4, "d": 5, "e": 12}, 9) == [["a"], ["b"], ["c", "d"], ["e"]]
    assert svd_compress.packed({}, 9) == []


@pytest.mark.parametrize("whitening", ["none", "asvd", "svd_llm"])
def test_global_ranks_hold_the_budget(whitening: str) -> None:
    life, model = method(keep_ratio=0.4, whitening=whitening, allocation="global"), chain()
    decisions = life.decide(model, CONTEXT)
    total = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2)
    life.prepare(model, decisions, CONTEXT)
    layers = factorised_layers(model)
    held = sum(layer.A.numel() + layer.B.numel() for layer in layers.values())
    assert 0.4 * total - 50 < held <= 0.4 * total
    assert life.metrics()["kept_ratio"] == pytest.approx(held / total)
    assert decisions.values == {"ranks": {name: layer.r for name, layer in layers.items()}}
    uniform = factorised_layers(prepared(keep_ratio=0.4, whitening=whitening))
    assert {n: layer.r for n, layer in layers.items()} != {n: layer.r for n, layer in uniform.items()}


def test_a_budget_in_bytes_is_a_ratio_of_the_weights() -> None:
    total = sum(p.nbytes for p in chain().parameters() if p.ndim == 2)
    one, two = prepared(keep_ratio=0.9, budget_bytes=total // 2), prepared(keep_ratio=0.5)
    assert {n: p.shape for n, p in one.named_parameters()} == {n: p.shape for n, p in two.named_parameters()}


@pytest.mark.parametrize("repair", ["none", "factors", "lora"])
def test_repair_trains_what_it_says(repair: str) -> None:
    model = prepared(keep_ratio=0.5, repair=repair, r=2)
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"none": set(), "factors": {"A", "B"}, "lora": {"lora_A", "lora_B"}}[repair]
    assert torch.allclose(model(inputs()), prepared(keep_ratio=0.5, repair="none")(inputs()), atol=1e-6)


def test_lora_on_factors_is_merged_into_them() -> None:
    life = method(keep_ratio=0.5, repair="lora", r=2)
    model = life.prepare(chain(), Decisions(), CONTEXT)
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.data = torch.randn(p.shape, generator=generator(0, name)) * 0.1
    expected = model(inputs())
    assert not torch.allclose(expected, prepared(keep_ratio=0.5)(inputs()), atol=1e-2)
    model = merge_factors(model)
    assert isinstance(model.last, FactorisedLinear) and model.last.r == 4
    torch.testing.assert_close(model(inputs()), expected, rtol=1e-5, atol=1e-5)
    plain = life.finalize(model)
    assert {n: type(m) for n, m in plain.named_modules()} == {n: type(m) for n, m in chain().named_modules()}
    torch.testing.assert_close(plain(inputs()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("setting", [("repair=lora",), ("allocation=global",), ("whitening=none",)])
def test_a_run_comes_back_from_what_it_kept(setting: tuple[str, ...], tiny: list[str], tmp_path: Path) -> None:
    from lrexp.engine import finished, reload

    of = session(tiny, tmp_path / "run", "method=svd_compress", "method.r=2", *(f"method.{s}" for s in setting))
    row = of.execute()
    assert {"base_accuracy", "prepared_accuracy", "accuracy", "method_kept_ratio"} <= set(row["metrics"])
    again = session(tiny, tmp_path / "again", "method=svd_compress", "method.r=2", *(f"method.{s}" for s in setting))
    stored = reload.stored(finished.read(tmp_path / "run"), again.run)
    model = reload.rebuild(again.run, again.task, stored, again.context)
    assert of.model is not None
    batch = of.task.collate(list(of.task.splits["train"].items[:5]))
    with torch.no_grad():
        one, two = (m.eval()(**{k: v for k, v in batch.items() if k != "labels"}).logits for m in (of.model, model))
    assert torch.equal(one, two)


REFUSED = [
    ({"keep_ratio": 0.01}, "q would have rank 0: it needs a keep_ratio of 0.1333"),
    ({"keep_ratio": 0.01, "allocation": "global"}, "does not hold rank 1"),
    ({"repair": "lora", "keep_ratio": 0.5, "r": 5}, "r is 5 for q.A"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_what_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(**values)


def test_a_layer_without_inputs_or_with_broken_ones_is_named() -> None:
    model = chain()
    model.spare = nn.Linear(8, 8)
    with pytest.raises(InputError, match="spare is never called"):
        method().prepare(model, Decisions(), CONTEXT)
    model = chain()
    model.q.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"(mix|last): the inputs have NaN"):
        method().prepare(model, Decisions(), CONTEXT)


def test_other_layers_are_refused() -> None:
    with pytest.raises(InputError, match="0 is a Embedding, and this method takes"):
        method(target_modules=("0",)).prepare(nn.Sequential(nn.Embedding(4, 4)), Decisions(), CONTEXT)


@pytest.mark.parametrize(
    "values",
    [
        {"keep_ratio": 0.0},
        {"r": 0},
        {"asvd_alpha": -1.0},
        {"calibration_size": 0},
        {"calibration_batches": 0},
        {"budget_bytes": 0},
        {"svd_niter": -1},
        {"svd_oversampling": -1},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r" is (0|-1)"):
        SVDCompressHyperparameters(**values)


def test_the_result_has_the_quality_of_the_base_and_as_prepared(run: Any, tmp_path: Path) -> None:
    words = ("method=svd_compress", "method.keep_ratio=0.5")
    trained, _ = run(*words, to="trained")
    alone, _ = run(*words, "method.repair=none", "training.max_steps=0", to="alone")
    base, _ = run("method=full", "training.max_steps=0", to="base")
    for metrics in (trained["metrics"], alone["metrics"]):
        assert metrics["base_loss"] == base["metrics"]["loss"]
    assert trained["metrics"]["prepared_loss"] == alone["metrics"]["loss"] != trained["metrics"]["loss"]
    assert not any(name.startswith("prepared_") for name in alone["metrics"])


def test_a_layer_called_more_than_once_sees_the_original_inputs() -> None:
    """A shared block: its second call comes after others that are compressed too."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.last = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = torch.tanh(self.last(torch.tanh(self.q(x))))
            return x

    def compressed(*targets: str) -> Tensor:
        with ambient(4):
            model = Shared()
        method = SVDCompress(SVDCompressHyperparameters(keep_ratio=0.5, target_modules=targets, repair="none"))
        method.prepare(model, Decisions(), CONTEXT)
        return factorised_layers(model)["q"].dense_weight()

    torch.testing.assert_close(compressed("(q)", "(last)"), compressed("(q)"), rtol=1e-6, atol=1e-7)


def test_a_part_of_a_fused_layer_is_refused() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = Conv1D(36, 12)

    method = SVDCompress(SVDCompressHyperparameters(target_modules=("q",)))
    with pytest.raises(InputError, match="c_attn is a fused layer, taken whole"):
        method.prepare(Fused(), Decisions(), CONTEXT)
