"""An adapter in PEFT's format as the tensors of our layers: LoRA, DoRA, AdaLoRA, with the head trained beside it.

Safetensors only: a pickled adapter is refused. What the original base cannot follow (a start that was taken out of the
base and not converted) is refused too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lrexp.layers.lora_conv import LoRAConv2d
from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.orthonormal_factors import STD
from lrexp.layers.peft_format import PREFIX
from lrexp.spec.errors import InputError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KEPT = (True, False, None, "gaussian", "orthogonal", "eva")  # starts that leave the base as it is
PARTS = {  # the end of a name in PEFT, and in our layers
    "lora_A.weight": "lora_A", "lora_B.weight": "lora_B", "lora_embedding_A": "lora_A", "lora_embedding_B": "lora_B",
    "lora_magnitude_vector": "lora_magnitude", "lora_magnitude_vector.weight": "lora_magnitude",
    "lora_A": "lora_A", "lora_B": "lora_B", "lora_E": "lora_E",  # AdaLoRA's
}  # fmt: skip
SIZES = {"r": "rank", "init_r": "number of triplets"}  # what a refusal calls them
EPSILON = 1e-5  # what PEFT's AdaLoRA adds to init_r in its scale
END = re.compile(rf"\.({'|'.join(map(re.escape, sorted(PARTS, key=len, reverse=True)))})$")


Draw = Callable[[str], torch.Generator]  # a generator for the name of a draw


class PeftAdapter:
    """A LoRA or a DoRA. Raises InputError for damaged files, pickled weights and what our layers do not have."""

    size: ClassVar[str] = "r"  # the setting that decides how many rows A has here

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config
        self._refuse_others()
        self.kind = "a DoRA" if config.get("use_dora") else "a LoRA"
        self.use_rslora = bool(config.get("use_rslora"))
        self.base = self.config.get("base_model_name_or_path")
        self.names = self._names()  # ours, by theirs
        self.has_head = any(END.search(name) is None for name in self.names)

    def fingerprint(self) -> str:
        """A hash of both files."""
        digest = hashlib.sha256()
        for file in (CONFIG, WEIGHTS):
            digest.update((self.folder / file).read_bytes())
        return digest.hexdigest()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors, by our names."""
        with safe_open(self.folder / WEIGHTS, framework="pt") as held:
            found = {name: tuple(held.get_slice(name).get_shape()) for name in self.names}
        return {self.names[name]: _flat(self.names[name], shape) for name, shape in found.items()}

    def tensors(self, draw: Draw) -> dict[str, Tensor]:
        """The tensors, by our names and in our shapes; what the files do not hold is drawn."""
        shapes = self.shapes()
        return {name: tensor.view(shapes[name]) for name, tensor in self._held().items()}

    def refuse_misfits(self, prepared: nn.Module) -> None:
        """Raises InputError where the layers of the prepared model have other places, ranks or scales."""
        layers = {name: layer for name, layer in prepared.named_modules() if isinstance(layer, LoRALayer)}
        shapes = self.shapes()
        theirs = {name.removesuffix(".lora_A"): shape[0] for name, shape in shapes.items() if name.endswith(".lora_A")}
        where = f"init_from={self.folder}"
        for name in sorted(theirs.keys() ^ layers.keys()):
            side = "the adapter" if name in theirs else "this run"
            raise InputError(
                f"{where}: {side} alone adapts {name}: set method.target_modules to what the adapter has "
                f"({len(theirs)} modules)."
            )
        for name, layer in layers.items():
            r, alpha = theirs[name], self._alpha(name)
            if layer.rank != r:
                raise InputError(
                    f"{where}: the adapter's {SIZES[self.size]} at {name} is {r}, this run's {layer.rank}: "
                    f"method.{self.size}={r}."
                )
            scaling = alpha / (math.sqrt(r) if self.use_rslora else r)
            if not math.isclose(layer.scaling, scaling, rel_tol=1e-6):
                other = layer.use_rslora != self.use_rslora
                root = f" method.use_rslora={str(self.use_rslora).lower()}" if other else ""
                raise InputError(
                    f"{where}: the adapter's scale at {name} is {scaling:g}, here {layer.scaling:g}: "
                    f"method.lora_alpha={alpha:g}{root}."
                )

    def _refuse_others(self) -> None:
        file, config = self.folder / CONFIG, self.config
        if config.get("init_lora_weights", True) not in KEPT:
            raise InputError(
                f"{file}: init_lora_weights is {config['init_lora_weights']}: it belongs to a changed base. PEFT's "
                "save_pretrained(..., path_initial_model_for_weight_conversion=...) makes a plain LoRA of it."
            )
        for key, plain in (("bias", "none"), ("lora_bias", False), ("layer_replication", None)):
            if config.get(key, plain) not in (plain, None):
                raise InputError(f"{file}: {key} is {config[key]}, which our layers do not have.")

    def _names(self) -> dict[str, str]:
        file = self.folder / WEIGHTS
        if not file.is_file():
            more = " (adapter_model.bin is a pickle, which can run code)" if file.with_suffix(".bin").exists() else ""
            raise InputError(f"{file}: missing{more}; save the adapter as safetensors.")
        try:
            with safe_open(file, framework="pt") as held:
                names = list(held.keys())
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file}: damaged or cut short ({str(error)[:100]}).") from error
        found = {}
        for name in names:
            plain = name.removeprefix(PREFIX)
            end = END.search(plain)
            found[name] = f"{plain[: end.start()]}.{PARTS[end[1]]}" if end else plain
        return found

    def _held(self) -> dict[str, Tensor]:
        """The tensors of the file, by our names."""
        found = load_file(self.folder / WEIGHTS)
        return {ours: found[theirs] for theirs, ours in self.names.items()}

    def _alpha(self, name: str) -> float:
        """The module's alpha: that of the pattern that reaches it, as PEFT matches them."""
        patterns = self.config.get("alpha_pattern") or {}
        plain = self.config.get("lora_alpha", 8)
        return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), plain)


class PeftAdaLoRA(PeftAdapter):
    """An AdaLoRA: of the init_r triplets that a layer began with, the files hold those that rank_pattern left.

    The others come back where they were, with E = 0 and A and B drawn as for a fresh layer: the function is the same,
    and training may take them up again. PEFT's scale stays alpha / (init_r + 1e-5) whatever was left; ours is
    alpha / init_r, so that E is times init_r / (init_r + 1e-5). Conv2d is refused.
    """

    size = "init_r"

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(folder, config)
        self.kind, self.use_rslora = "an AdaLoRA", False  # its layers do not look at use_rslora
        self.init_r: int = config.get("init_r", 12)
        self.left: dict[str, list[bool]] = {  # of the triplets of a layer, by its name
            key.partition(".lora_E")[0]: flags for key, flags in (config.get("rank_pattern") or {}).items()
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of whole layers. Raises InputError where A, E and B are not what rank_pattern left."""
        found = super().shapes()
        for name in self._layers():
            A, E, B = (found.get(f"{name}.{part}", ()) for part in ("lora_A", "lora_E", "lora_B"))
            count = int(self._left(name).sum())
            if (A[:1], E, B[1:]) != ((count,), (count, 1), (count,)):
                raise InputError(
                    f"{self.folder}: damaged: lora_A, lora_E and lora_B of {name} are not the {count} triplets that "
                    f"{CONFIG} leaves of {self.init_r}."
                )
            found |= {f"{name}.lora_A": (self.init_r, *A[1:]), f"{name}.lora_B": (B[0], self.init_r)}
            found[f"{name}.lora_E"] = (self.init_r,)
        return found

    def tensors(self, draw: Draw) -> dict[str, Tensor]:
        """The tensors of whole layers; what was cut off is drawn by the layer's name, as AdaLoRA starts."""
        found, shapes = self._held(), self.shapes()
        for name in self._layers():
            left, generator = self._left(name), draw(f"init:{name}")
            names = [f"{name}.{part}" for part in ("lora_A", "lora_B", "lora_E")]
            A, B, E = (found[each].to(torch.promote_types(found[each].dtype, torch.float32)) for each in names)
            whole_A, whole_B = (torch.randn(shapes[each], generator=generator).to(A) * STD for each in names[:2])
            whole_E = A.new_zeros(self.init_r)
            whole_A[left], whole_B[:, left] = A, B
            whole_E[left] = E.flatten() * (self.init_r / (self.init_r + EPSILON))
            found |= dict(zip(names, (whole_A, whole_B, whole_E), strict=True))
        return found

    def refuse_misfits(self, prepared: nn.Module) -> None:
        """As LoRA's. Raises InputError for convolutions too."""
        convolutions = [name for name, layer in prepared.named_modules() if isinstance(layer, LoRAConv2d)]
        if convolutions:
            raise InputError(f"init_from={self.folder}: {convolutions[0]} is a Conv2d: an AdaLoRA of it is not taken.")
        super().refuse_misfits(prepared)

    def _layers(self) -> list[str]:
        return [name.removesuffix(".lora_A") for name in self.names.values() if name.endswith(".lora_A")]

    def _left(self, name: str) -> Tensor:
        """Which triplets of a layer the files hold: all, where nothing is said."""
        flags = self.left.get(name, [True] * self.init_r)
        if not isinstance(flags, list) or len(flags) != self.init_r or any(type(flag) is not bool for flag in flags):
            raise InputError(
                f"{self.folder / CONFIG}: damaged: rank_pattern of {name} is no list of {self.init_r} bools."
            )
        return torch.tensor(flags)

    def _alpha(self, name: str) -> float:
        alpha = self.config.get("lora_alpha", 8)
        return alpha if alpha > 0 else self.init_r  # as PEFT has it


KINDS = {"LORA": PeftAdapter, "ADALORA": PeftAdaLoRA}  # by peft_type


def read(folder: Path) -> PeftAdapter:
    """The adapter in a folder. Raises InputError for one of another kind and for damaged files."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged, it is no JSON ({str(error)[:100]}).") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in KINDS:
        raise InputError(f"{file}: peft_type is {kind}: LORA, with or without use_dora, and ADALORA are taken.")
    return KINDS[kind](folder, config)


def _flat(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's magnitudes, (1, m, 1, 1), are a vector here."""
    return (math.prod(shape),) if name.endswith(".lora_magnitude") else shape
