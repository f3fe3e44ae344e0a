"""Image classifiers: sizes of the paper, their draw, saved folders, layers by name, sizes that follow the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lrexp.models import build, hub, load
from lrexp.models.model_spec import ModelSpec, Outputs, read
from lrexp.models.roles import head_modules, select
from lrexp.spec import choices
from lrexp.spec.errors import InputError

NOWHERE = load.Place(None, None)
NAMES = [choice.name for choice in choices.choices("model") if choice.default("kind") == "vision"]
MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def spec(name: str, **config: Any) -> ModelSpec:
    values = choices.choice("model", name).values
    return read({**values, "config": {**values["config"], **config}})


def outputs(shape: tuple[int, int, int], classes: int = 10) -> Outputs:
    return Outputs("image_classification", classes, "single_label_classification", shape)


def made(found: ModelSpec, shape: tuple[int, int, int], seed: int = 0, classes: int = 10) -> Any:
    return build.base(found, load.place(found), outputs(shape, classes), seed)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [("mlp", MNIST, 199_210), ("mlp", CIFAR, 656_810), ("lenet", MNIST, 44_426), ("lenet", CIFAR, 62_006)],
)
def test_parameters_are_those_of_the_paper(name: str, shape: tuple[int, int, int], parameters: int) -> None:
    with torch.device("meta"):
        model = build.empty(spec(name), NOWHERE, outputs(shape), torch.float32)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_kernels_are_drawn_as_he_et_al_do_and_biases_are_zero(name: str) -> None:
    one, same, other = (made(spec(name), MNIST, seed) for seed in (1, 1, 2))
    for (key, tensor), again, another in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(tensor, again)
        if key.endswith("bias"):
            assert not tensor.any()
            continue
        spread = (2 / tensor[0].numel()) ** 0.5
        assert float(tensor.detach().std()) == pytest.approx(spread, rel=6 / (2 * tensor.numel()) ** 0.5)
        assert not torch.equal(tensor, another)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [MNIST, CIFAR, DIGITS, (1, 20, 28)])
def test_sizes_follow_the_images(name: str, shape: tuple[int, int, int]) -> None:
    logits = made(spec(name), shape, classes=7)(pixel_values=torch.zeros(2, *shape)).logits
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_folder_is_read_again(name: str, tmp_path: Path) -> None:
    model = made(spec(name), DIGITS).eval()
    model.save_pretrained(tmp_path)
    found = replace(spec(name), path=str(tmp_path), head=())
    place = load.place(found)
    assert place.tokenizer is None and load.tokenizer(place) is None
    again = build.base(found, place, outputs(DIGITS), 5).eval()
    images = torch.rand(3, *DIGITS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(pixel_values=images).logits, model(pixel_values=images).logits)
    assert hub.lacks(tmp_path, reads_text=False) == () and hub.lacks(tmp_path) == ("tokenizer.json",)


def test_layers_by_name_and_by_role() -> None:
    mlp, lenet, vit = (made(spec(name), DIGITS) for name in ("mlp", "lenet", "vit_tiny"))
    head = ("classifier",)
    assert all(head_modules(model, head) == ["classifier"] for model in (mlp, lenet, vit))
    assert select(mlp, "all-linear", head) == select(lenet, "all-linear", head) == ["layers.hidden1", "layers.hidden2"]
    assert select(lenet, ("conv1", "conv2", "hidden1"), head) == ["conv1", "conv2", "layers.hidden1"]
    assert len(select(vit, ("q", "v"), head)) == 8
    with pytest.raises(InputError, match="'q' matches no layer of MLP; its layers are named classifier, hidden1"):
        select(mlp, ("q", "v"), head)


def test_images_that_a_convolution_has_nothing_to_read_of() -> None:
    assert made(spec("lenet"), DIGITS).conv1.padding == (2, 2)
    assert made(spec("lenet"), (1, 16, 16)).conv1.padding == (0, 0)
    with pytest.raises(InputError, match=r"8 x 8 pixels are too small for model\.config\.padding=0") as caught:
        made(spec("lenet", padding=0), DIGITS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("mlp", {"hidden_sizes": [200, 0]}, r"hidden_sizes is \[200, 0\]"),
        ("mlp", {"hidden_sizes": [2.5]}, "hidden_sizes is"),
        ("mlp", {"hiden_sizes": [2]}, "Did you mean 'hidden_sizes'"),
        ("lenet", {"conv_sizes": [6]}, "LeNet has two convolutions"),
        ("lenet", {"padding": -1}, "padding is -1"),
    ],
)
def test_wrong_sizes_are_said_in_one_line(name: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        made(spec(name, **config), MNIST)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_rehearsals_draw_nothing(name: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = build.empty(spec(name), NOWHERE, outputs(DIGITS), torch.bfloat16)
    real = made(spec(name), DIGITS)
    assert [(n, p.shape) for n, p in fake.named_parameters()] == [(n, p.shape) for n, p in real.named_parameters()]
    assert {p.dtype for p in fake.parameters()} == {torch.bfloat16}


def test_tied_weights_are_tied_in_a_rehearsal() -> None:
    values = choices.choice("model", "llama_tiny").values
    tied = read({**values, "config": {**values["config"], "tie_word_embeddings": True}})
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake: Any = build.empty(tied, load.place(tied), Outputs("causal_lm"), torch.float32)
    assert fake.lm_head.weight is fake.model.embed_tokens.weight
    assert isinstance(fake.lm_head, nn.Linear)
