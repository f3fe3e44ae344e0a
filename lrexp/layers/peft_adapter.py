"""An adapter in PEFT's format as the tensors of our layers: LoRA and DoRA, with the head that was trained beside it.

Safetensors only: a pickled adapter is refused. What the original base cannot follow (a start that was taken out of the
base and not converted) is refused too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lrexp.layers.lora_layer import LoRALayer
from lrexp.layers.peft_format import PREFIX
from lrexp.spec.errors import InputError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KEPT = (True, False, None, "gaussian", "orthogonal", "eva")  # starts that leave the base as it is
PARTS = {  # the end of a name in PEFT, and in our layers
    "lora_A.weight": "lora_A", "lora_B.weight": "lora_B", "lora_embedding_A": "lora_A", "lora_embedding_B": "lora_B",
    "lora_magnitude_vector": "lora_magnitude", "lora_magnitude_vector.weight": "lora_magnitude",
}  # fmt: skip
END = re.compile(rf"\.({'|'.join(map(re.escape, sorted(PARTS, key=len, reverse=True)))})$")


class PeftAdapter:
    """What the folder holds. Raises InputError for another kind of adapter, for damaged files and pickled weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = self._config()
        self.is_dora = bool(self.config.get("use_dora"))
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

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by our names and in our shapes."""
        found = load_file(self.folder / WEIGHTS)
        shapes = self.shapes()
        return {ours: found[theirs].view(shapes[ours]) for theirs, ours in self.names.items()}

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
            r, alpha = theirs[name], self._of(name, "alpha_pattern", self.config.get("lora_alpha", 8))
            if layer.rank != r:
                raise InputError(
                    f"{where}: the adapter's rank at {name} is {r}, this run's {layer.rank}: method.r={r}."
                )
            scaling = alpha / (math.sqrt(r) if self.config.get("use_rslora") else r)
            if not math.isclose(layer.scaling, scaling, rel_tol=1e-6):
                root = " method.use_rslora=true" if self.config.get("use_rslora") else ""
                raise InputError(
                    f"{where}: the adapter's scale at {name} is {scaling:g}, here {layer.scaling:g}: "
                    f"method.lora_alpha={alpha:g}{root}."
                )

    def _config(self) -> dict[str, Any]:
        file = self.folder / CONFIG
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: damaged, it is no JSON ({str(error)[:100]}).") from error
        kind = config.get("peft_type") if isinstance(config, dict) else None
        if kind != "LORA":
            raise InputError(f"{file}: peft_type is {kind}: LORA alone, with or without use_dora, is taken.")
        if config.get("init_lora_weights", True) not in KEPT:
            raise InputError(
                f"{file}: init_lora_weights is {config['init_lora_weights']}: it belongs to a changed base. PEFT's "
                "save_pretrained(..., path_initial_model_for_weight_conversion=...) makes a plain LoRA of it."
            )
        for key, plain in (("bias", "none"), ("lora_bias", False), ("layer_replication", None)):
            if config.get(key, plain) not in (plain, None):
                raise InputError(f"{file}: {key} is {config[key]}, which our layers do not have.")
        return config

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

    def _of(self, name: str, field: str, value: float) -> float:
        """The value of a pattern that reaches the module, as PEFT matches them."""
        patterns = self.config.get(field) or {}
        return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), value)


def _flat(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's magnitudes, (1, m, 1, 1), are a vector here."""
    return (math.prod(shape),) if name.endswith(".lora_magnitude") else shape
