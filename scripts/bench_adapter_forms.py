"""One layer of SVFit, LoLDU or SORSA: lrexp's beside the dense form, which builds a weight in every forward pass.

Part `dense` of `bench_adapters.py` prints it. A step is forward and backward pass with the input's gradient, and
SORSA's penalty: by autograd on the dense side. Outputs and gradients of both are compared before they are timed. The
floor is the frozen layer alone: floor / dense is the least that a ratio can be.

    SVFit   W = U diag(sigma, rest) V^T, kept whole: by a product with the diagonal as a matrix, or as a vector
    LoLDU   W = W_res + s P L diag(z) U, from left to right, P and diag(z) dense matrices as in the code
    SORSA   y = x W_res^T + s x (B diag(S) A)^T + b, as in the code

No code of SVFit's authors is known to us: its forms are the equation. LoLDU's factors are not normalised here, so that
the trained numbers of both sides are the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from adapter_sides import RATE, Setting
from torch import Tensor, nn
from torch.nn import functional as F

from lrexp.layers.lora_layer import LoRALayer
from lrexp.methods import catalog
from lrexp.methods.base import Context, Decisions, Method, Training
from lrexp.optim.build import make_optimizer

METHODS = ("svfit", "loldu", "sorsa")
SHAPES = ((768, 768), (2048, 2048))
TOKENS, GAMMA, GOAL, TOLERANCE = 2048, 4e-4, 0.5, 2e-3
NAMES = {"svfit": ("lora_E",), "loldu": ("lora_E",), "sorsa": ("lora_A", "lora_E", "lora_B")}


@dataclass
class Form:
    """A dense form: what it trains, its output, and a penalty to differentiate beside the task's loss."""

    trained: list[nn.Parameter]
    forward: Callable[[Tensor], Tensor]
    penalty: Callable[[], Tensor] | None = None


@dataclass
class Known:
    """A weight (m, n) with its SVD, and a bias."""

    W: Tensor
    U: Tensor
    S: Tensor
    Vh: Tensor
    bias: Tensor


def report_dense(setting: Setting, methods: list[str] | None, ranks: list[str], rounds: int) -> None:
    print(f"\ndense forms, {TOKENS} tokens, {rounds} rounds; milliseconds are medians")
    print("method, form | shape | r | floor, ours, dense ms | ratio (goal) | floor / dense | largest difference")
    for m, n in SHAPES:
        known = drawn(m, n, setting.device)
        x, g = (torch.randn(TOKENS, k, generator=torch.Generator().manual_seed(3)).to(setting.device) for k in (n, m))
        for name in METHODS:
            if methods and name not in methods:
                continue
            for text in ranks:
                if text == "all" and name == "sorsa":
                    continue
                r = min(m, n) if text == "all" else int(text)
                report_layer(name, r, known, x.requires_grad_(True), g, setting, rounds)


def drawn(m: int, n: int, device: torch.device) -> Known:
    """A weight whose singular values fall like 1 / sqrt(i), as those of trained layers do."""
    generator, k = torch.Generator().manual_seed(0), min(m, n)
    U, V = (torch.linalg.qr(torch.randn(size, k, generator=generator)).Q for size in (m, n))
    S = torch.arange(1, k + 1).rsqrt()
    bias = torch.randn(m, generator=generator)
    return Known(*(t.to(device) for t in ((U * S) @ V.mT, U, S, V.mT, bias)))


def layer_of(name: str, r: int, known: Known, setting: Setting) -> tuple[Method, LoRALayer, Training]:
    """Our layer as a run has it, moved from its start so that the change counts."""
    m, n = known.W.shape
    model = nn.Sequential(nn.Linear(n, m)).to(setting.device)
    with torch.no_grad():
        model[0].weight.copy_(known.W)
        model[0].bias.copy_(known.bias)
    section = {"name": name, "r": r, "target_modules": "0"} | ({"normalise": False} if name == "loldu" else {})
    method = catalog.build(section)
    model = method.prepare(model, Decisions(), Context(0, 100, setting.device, torch.float32)).train()
    optimizer = make_optimizer({"name": "adamw"}, RATE)(method.parameter_groups(model))
    layer = model.get_submodule("0")
    assert isinstance(layer, LoRALayer)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for key in NAMES[name]:
            each = getattr(layer, key)
            each.add_((0.05 * torch.randn(each.shape, generator=generator)).to(each))
    return method, layer, Training(optimizer, 0)


def forms_of(name: str, known: Known, layer: LoRALayer) -> dict[str, Form]:
    """The dense forms of the function that our layer computes now."""
    move = None if layer.lora_E is None else layer.lora_E.detach()
    if name == "svfit":
        return svfit(known, move)
    return loldu(known, layer.rank, move) if name == "loldu" else sorsa(known, layer)


def svfit(known: Known, move: Tensor) -> dict[str, Form]:
    r = len(move)
    sigma, rest = nn.Parameter(known.S[:r] + move), known.S[r:]

    def by_matrix(x: Tensor) -> Tensor:
        return F.linear(x, known.U @ torch.diag(torch.cat([sigma, rest])) @ known.Vh, known.bias)

    def by_vector(x: Tensor) -> Tensor:
        return F.linear(x, (known.U * torch.cat([sigma, rest])) @ known.Vh, known.bias)

    return {"diag as a matrix": Form([sigma], by_matrix), "diag as a vector": Form([sigma], by_vector)}


def loldu(known: Known, r: int, move: Tensor) -> dict[str, Form]:
    P, L, U = torch.linalg.lu(known.W)
    D = U.diagonal()
    L, U, D = L[:, :r].contiguous(), (U / D[:, None])[:r].contiguous(), D[:r]
    residual, z, s = known.W - P @ L @ torch.diag(D) @ U, nn.Parameter(D + move), torch.ones((), device=D.device)

    def forward(x: Tensor) -> Tensor:
        return F.linear(x, residual + s * P @ L @ torch.diag(z) @ U, known.bias)

    return {"P L D U": Form([z], forward)}


def sorsa(known: Known, layer: LoRALayer) -> dict[str, Form]:
    A, S, B = (nn.Parameter(getattr(layer, key).detach().clone()) for key in NAMES["sorsa"])
    residual = layer.weight.detach().clone()

    def forward(x: Tensor) -> Tensor:
        y = F.linear(x, residual)
        y += F.linear(x, (B * S) @ A) * 1.0
        y += known.bias
        return y

    def penalty() -> Tensor:
        eye = torch.eye(len(S), device=S.device)
        return GAMMA / RATE * (torch.norm(A @ A.T - eye) + torch.norm(B.T @ B - eye)) / 2

    return {"B S A, penalty by autograd": Form([A, S, B], forward, penalty)}


def report_layer(name: str, r: int, known: Known, x: Tensor, g: Tensor, setting: Setting, rounds: int) -> None:
    method, layer, training = layer_of(name, r, known, setting)
    own = [getattr(layer, key) for key in NAMES[name]]

    def ours() -> list[Tensor]:
        method.before_step(0)
        y = layer(x)
        y.backward(g)
        method.gradients_ready(0, training)
        method.before_update(0, training)
        return taken(y, x, own)

    def floor() -> list[Tensor]:
        y = F.linear(x, known.W, known.bias)
        y.backward(g)
        return taken(y, x, [])

    for title, form in forms_of(name, known, layer).items():

        def dense(form: Form = form) -> list[Tensor]:
            y = form.forward(x)
            y.backward(g)
            if form.penalty is not None:
                form.penalty().backward()
            return taken(y, x, form.trained)

        pairs = list(zip(dense(), ours(), strict=True))
        difference = max(float((a - b.view_as(a)).norm() / a.norm()) for a, b in pairs)
        if difference > TOLERANCE:
            raise SystemExit(f"{name}, {title}, r {r}: outputs or gradients differ by {difference:.1e}")
        sides = (floor, ours, dense)
        spent: dict[Callable[[], list[Tensor]], list[float]] = {side: [] for side in sides}
        for turn in range(rounds):
            for side in sides[turn % 3 :] + sides[: turn % 3]:
                began = setting.now()
                side()
                spent[side].append((setting.now() - began) * 1e3)
        least, one, other = (statistics.median(spent[side]) for side in sides)
        shape = " x ".join(map(str, known.W.shape))
        print(f"{name}, {title} | {shape} | {r} | {least:.1f}, {one:.1f}, {other:.1f}", end=" | ")
        print(f"{one / other:.2f} ({GOAL}) | {least / other:.2f} | {difference:.0e}", flush=True)


def taken(y: Tensor, x: Tensor, trained: list[nn.Parameter]) -> list[Tensor]:
    """The output and all gradients, which are gone from where they were."""
    found = [y.detach(), *(t.grad for t in (x, *trained) if t.grad is not None)]
    for t in (x, *trained):
        t.grad = None
    return found
