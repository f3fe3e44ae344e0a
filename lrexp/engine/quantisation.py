"""What `model.quantization` means for a run: who can have it, and when the weights are stored so.

The method prepares the model on the base as it is (decisions, decompositions, starts that are taken out of it), then
what is frozen is quantised: the base of LoRA as it was, the remainder of PiSSA and its kin, as QPiSSA has it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from torch import nn

from lrexp.layers.quantised import quantise_base
from lrexp.layers.quantisers import PACKAGES
from lrexp.linalg.weight_only import Kind
from lrexp.methods import catalog
from lrexp.models.model_spec import ModelSpec
from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec

WHY = {"int4": "their inputs are no multiple of 32", "nf4": "their inputs are odd in number"}


def settle(
    model: nn.Module, kind: Kind | None, head: tuple[str, ...], say: Callable[[str], None] = lambda text: None
) -> nn.Module:
    """The prepared model, its frozen weights in fewer bits where the spec asks for it. Raises InputError where none is.

    Says which linear layers are left as they are, since their rows do not fit.
    """
    if kind is None:
        return model
    done, left = quantise_base(model, kind, head)
    if not done:
        raise InputError(
            f"model.quantization={kind}: no frozen linear layer of {type(model).__name__} can be stored so."
        )
    if left:
        say(f"{kind}: {done} linear layers are stored so; {len(left)} stay as they are ({left[0]}): {WHY[kind]}")
    return model


def refuse_unfit(spec: RunSpec, section: ModelSpec) -> None:
    """Raises InputError for a method that needs the base's numbers, and for a precision that the libraries lack."""
    kind, name = section.quantization, spec.method["name"]
    if kind is None:
        return
    if not catalog.entry(name).supports.quantised_base:
        able = ", ".join(other for other, entry in catalog.entries().items() if entry.supports.quantised_base)
        raise InputError(f"model.quantization={kind}: not with method={name}, but with {able}.")
    if spec.hardware.precision == "float64":
        raise InputError(f"model.quantization={kind}: not with hardware.precision=float64: take float32 or bf16.")


def refuse_device(spec: RunSpec, section: ModelSpec) -> None:
    """Raises InputError for a run on a device that its quantisation is not meant for."""
    if section.quantization == "nf4" and spec.hardware.device == "cpu":
        raise InputError("model.quantization=nf4 trains on CUDA alone: take int8 or int4, or hardware=cuda.")


def versions(section: ModelSpec) -> dict[str, str]:
    """The library that quantises and its version: it decides numbers. Empty where there is none."""
    if section.quantization is None:
        return {}
    package = PACKAGES[section.quantization]
    try:
        return {package: version(package)}
    except PackageNotFoundError:
        return {package: "not installed"}
