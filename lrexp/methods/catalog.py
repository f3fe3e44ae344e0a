"""Every method by name: where its class is, its family, its paper and what it does in one line. Imports no torch.

`ENTRIES` are those that ship with lrexp; `entries()` are all, with those that other packages declare.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lrexp.spec import packages
from lrexp.spec.convert import clip, from_mapping, unknown
from lrexp.spec.errors import InputError
from lrexp.spec.packages import Entry, Supports

if TYPE_CHECKING:
    from lrexp.methods.base import Method


__all__ = ["ENTRIES", "Entry", "Supports", "entries", "entry", "families", "load", "versions"]


def _catalogue(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


ENTRIES = _catalogue(
    Entry("full", "lrexp.methods.full", "Full", "full", "arXiv 1810.04805", "every weight of the model is trained"),
    Entry(
        "lora",
        "lrexp.methods.adapters.lora",
        "LoRA",
        "adapters",
        "arXiv 2106.09685",
        "a low-rank product beside frozen weights",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "pissa",
        "lrexp.methods.adapters.pissa",
        "PiSSA",
        "adapters",
        "arXiv 2404.02948",
        "the top singular triplets are trained",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "sorsa",
        "lrexp.methods.adapters.sorsa",
        "SORSA",
        "adapters",
        "arXiv 2409.00055",
        "singular values and vectors trained apart, vectors kept orthonormal",
        supports=Supports(quantised_base=True, per_layer=False),
    ),
    Entry(
        "eva",
        "lrexp.methods.adapters.eva",
        "EVA",
        "adapters",
        "arXiv 2410.07170",
        "LoRA from the inputs' principal directions, ranks by variance",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "adalora",
        "lrexp.methods.adapters.adalora",
        "AdaLoRA",
        "adapters",
        "arXiv 2303.10512",
        "LoRA in triplets, the least important dropped on the way",
        supports=Supports(quantised_base=True, per_layer=False),
    ),
    Entry(
        "lora_ga",
        "lrexp.methods.adapters.lora_ga",
        "LoRAGA",
        "adapters",
        "arXiv 2407.05000",
        "LoRA from the gradient's singular vectors",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "svfit",
        "lrexp.methods.adapters.svfit",
        "SVFit",
        "adapters",
        "arXiv 2409.05926",
        "the top singular values are trained, their vectors frozen",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "loldu",
        "lrexp.methods.adapters.loldu",
        "LoLDU",
        "adapters",
        "arXiv 2410.13618",
        "the pivots of an LDU factorisation are trained",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "salt",
        "lrexp.methods.adapters.salt",
        "SALT",
        "adapters",
        "arXiv 2503.16055",
        "top singular values scaled and shifted, low rank in the rest",
    ),
    Entry(
        "olora",
        "lrexp.methods.adapters.olora",
        "OLoRA",
        "adapters",
        "arXiv 2406.01775",
        "LoRA from a QR factorisation of the weight",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "dora",
        "lrexp.methods.adapters.dora",
        "DoRA",
        "adapters",
        "arXiv 2402.09353",
        "LoRA on the weight's direction, with trained magnitudes",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "lora_plus",
        "lrexp.methods.adapters.lora_plus",
        "LoRAPlus",
        "adapters",
        "arXiv 2402.12354",
        "LoRA whose B learns faster than its A",
        supports=Supports(quantised_base=True),
    ),
    Entry(
        "peft",
        "lrexp.methods.adapters.peft",
        "Peft",
        "adapters",
        "huggingface/peft",
        "any tuner of HF PEFT that changes weights, chosen by peft_type",
        needs="peft",
    ),
    Entry(
        "galore",
        "lrexp.methods.gradients.galore",
        "GaLore",
        "gradients",
        "arXiv 2403.03507",
        "every weight trained, moments of projected gradients",
    ),
    Entry(
        "sltrain",
        "lrexp.methods.pretraining.sltrain",
        "SLTrain",
        "pretraining",
        "arXiv 2406.02214",
        "weights that are a low-rank product plus a sparse matrix",
        supports=Supports(starts_at_base=False),
    ),
    Entry(
        "lowrank_pretrain",
        "lrexp.methods.pretraining.lowrank_pretrain",
        "LowRankPretrain",
        "pretraining",
        "arXiv 2403.03507",
        "weights that are a low-rank product from the start",
        supports=Supports(starts_at_base=False),
    ),
    Entry(
        "intrinsic_dimension",
        "lrexp.methods.subspaces.intrinsic_dimension",
        "IntrinsicDimension",
        "subspaces",
        "arXiv 1804.08838",
        "all weights move in a random subspace",
    ),
    Entry(
        "said",
        "lrexp.methods.subspaces.said",
        "SAID",
        "subspaces",
        "arXiv 2012.13255",
        "a random subspace with a scalar per tensor",
    ),
    Entry(
        "svd_compress",
        "lrexp.methods.compression.svd_compress",
        "SVDCompress",
        "compression",
        "arXiv 2403.07378",
        "weights become thin products: SVD, ASVD or SVD-LLM",
        supports=Supports(starts_at_base=False),
    ),
)


def entries() -> dict[str, Entry]:
    """Every method that can be had: lrexp's own in their order, then those of other packages."""
    return ENTRIES | {name: declared.entry for name, declared in packages.methods().items()}


def entry(name: str) -> Entry:
    """The entry of a method. Raises InputError, with the nearest name, if there is none."""
    known = entries()
    if name not in known:
        raise InputError(unknown(f"method={name}", name, known, "method"))
    return known[name]


def load(name: str) -> type[Method]:
    """The method's class; its module, and with it torch, is imported here.

    Raises InputError for an unknown name, and where another package's module does not hold what its entry says.
    """
    found = entry(name)
    if name in ENTRIES:
        return getattr(importlib.import_module(found.module), found.cls)
    from lrexp.methods.base import Method

    where = f"method={name} of {packages.methods()[name].package}: {found.module}"
    try:
        cls = getattr(importlib.import_module(found.module), found.cls, None)
    except Exception as error:
        raise InputError(f"{where} cannot be imported ({clip(f'{type(error).__name__}: {error}', 200)})") from error
    if not isinstance(cls, type) or not issubclass(cls, Method) or not hasattr(cls, "Hyperparameters"):
        raise InputError(f"{where} has no class {found.cls} of lrexp.methods.base.Method with its Hyperparameters")
    return cls


def build(section: Mapping[str, Any]) -> Method:
    """The method of a spec's section with its hyperparameters. Raises InputError for a wrong key, type or range."""
    cls = load(section["name"])
    values = {key: value for key, value in section.items() if key not in ("name", "tuning")}
    return cls(from_mapping(cls.Hyperparameters, values, "method"))


def families() -> dict[str, str]:
    """The family of each method."""
    return {name: found.family for name, found in entries().items()}


def versions(name: str) -> dict[str, str]:
    """Packages that decide the method's numbers too, with their versions: the one it comes from, the one it needs."""
    from importlib.metadata import version  # only where a run is made

    declared = packages.methods().get(name)
    found = {} if declared is None else {declared.package: declared.version}
    return found | ({needed: version(needed)} if (needed := entry(name).needs) else {})
