"""Replays of PiSSA: the start from the weight's triplets, training from the stored start, conversion to plain LoRA."""

from __future__ import annotations

from torch import Tensor

from lrexp.layers.adapted import merge
from lrexp.layers.lora_layer import LoRALayer, LoRASettings, difference_to_original
from lrexp.layers.lora_linear import LoRALinear
from lrexp.linalg.svd import exact_svd
from lrexp.methods.adapters.pissa import PiSSA
from lrexp.methods.base import Context
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import evaluate, inject, linear, lora_section, one_layer, train_from_taken_start
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


class GivenOmega(PiSSA):
    """PiSSA with the case's test matrix in place of a drawn one."""

    given: Tensor

    def omega(self, shape: tuple[int, int], name: str, context: Context) -> Tensor:
        """The case's."""
        return self.given


def pissa(case: Case) -> PiSSA:
    """PiSSA with the hyperparameters of the case: a randomized SVD where its init is named pissa_niter_<n>."""
    given = case.hyperparameters
    section = lora_section(case)
    init, _, niter = str(given.get("init", "pissa")).partition("_niter_")
    if init != "pissa":
        raise ValueError(f"init is {given['init']!r}: pissa or pissa_niter_<n>")
    omega = case.get("omega")
    if niter:
        section |= {"svd": "randomized", "svd_niter": int(niter)}
        section |= {"svd_oversampling": 0 if omega is None else omega.shape[1] - given["r"]}
    method = GivenOmega if omega is not None else PiSSA
    made = method(from_mapping(PiSSA.Hyperparameters, section, "method"))
    if isinstance(made, GivenOmega) and omega is not None:
        made.given = omega
    return made


@replay("pissa", "init_train", results=("scaling",))
def init_train(case: Case) -> Outcome:
    """The start is compared; training goes on from the stored one."""
    return _init_train(case)[0]


@replay("pissa", "init_train_convert", results=("scaling", "converted"))
def init_train_convert(case: Case) -> Outcome:
    """The same, and then the change as a plain LoRA on the original weight."""
    outcome, layer = _init_train(case)
    A, B, r, alpha = difference_to_original(layer)
    settings = LoRASettings(r, alpha, layer.use_rslora, dtype=A.dtype)
    plain = LoRALinear(linear(case["W"], case.get("b")), settings)
    inject(plain.lora_A, A)
    inject(plain.lora_B, B)
    outcome.results["converted"] = {
        "r": r,
        "lora_alpha": alpha,
        "use_rslora": plain.use_rslora,
        "scaling": plain.scaling,
    }
    model = one_layer(plain)
    outcome.tensors |= {"lora_A_conv": A, "lora_B_conv": B, "y_conv": evaluate(model, case["x"][0])}
    (merged,) = merge(model).children()
    outcome.tensors["W_conv_merged"] = merged.weight  # type: ignore[assignment]
    return outcome


def _init_train(case: Case) -> tuple[Outcome, LoRALayer]:
    outcome, layer = train_from_taken_start(pissa(case), case)
    outcome.tensors["S"] = exact_svd(case["W"].double()).S
    return outcome, layer
