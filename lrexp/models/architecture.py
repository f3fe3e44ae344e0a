"""The config of a model whose weights are drawn: which architectures, and which of their sizes, a run may choose.

A config may come from a stranger's file, and transformers takes any key: it sets what it does not know, and some of
what it knows chooses code. So only the sizes that an architecture's own class declares are handed on.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lrexp.models.load import Place, first_line, tokenizer
from lrexp.models.model_spec import Kind, ModelSpec
from lrexp.spec.convert import join, nearest, number, unknown
from lrexp.spec.errors import InputError

ARCHITECTURES: dict[str, Kind] = {  # transformers' names, or those of lrexp.models.vision, and the kind of each
    "llama": "decoder",
    "gpt2": "decoder",
    "mistral": "decoder",
    "qwen2": "decoder",
    "gpt_neox": "decoder",
    "bert": "encoder",
    "roberta": "encoder",
    "mlp": "vision",
    "lenet": "vision",
    "vit": "vision",
}


def drawn(spec: ModelSpec, place: Place) -> Any:
    """Transformers' config for the sizes of `spec`, and for the special tokens of its tokenizer where it names none.

    Raises InputError for an unknown architecture, a key that it does not have or that is no size, a wrong value.
    """
    name = spec.architecture or ""
    if name not in ARCHITECTURES:
        near = nearest(name, ARCHITECTURES)
        known = f"{', '.join(ARCHITECTURES)}{': ' * bool(near)}{near}"
        raise InputError(f"model={spec.name}: model.architecture: {name!r} is not one of {known}")
    if ARCHITECTURES[name] != spec.kind:
        raise InputError(f"model={spec.name}: model.kind is {spec.kind}, but {name} is of kind {ARCHITECTURES[name]}")
    from transformers import AutoConfig

    sizes = checked(name, spec.config)
    try:
        config = AutoConfig.for_model(name, **sizes)
    except Exception as error:  # transformers has errors of its own for types and combinations
        raise InputError(f"model={spec.name}: {' '.join(str(error).split())[:160] or first_line(error)}") from error
    _name_special_tokens(config, sizes, tokenizer(place))
    return config


def checked(architecture: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes, each a key of the architecture's own and a plain value. Raises InputError for any other."""
    known = declared(architecture)
    for key, value in sizes.items():
        where = join("model.config", key)
        if key not in known:
            raise InputError(unknown(where, str(key), known, f"key of {architecture}", "Keys"))
        if not _is_plain(value):
            raise InputError(f"{where}: takes a number, a word, true, false, null or a list of numbers")
    return {key: _as_number(value) for key, value in sizes.items()}


def declared(architecture: str) -> tuple[str, ...]:
    """What the architecture's config class takes and the class of all configs does not, by name."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    def taken(cls: Any) -> list[str]:
        found = inspect.signature(cls).parameters.values()
        return [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

    common = taken(PretrainedConfig)
    return tuple(key for key in taken(CONFIG_MAPPING[architecture]) if key not in common and not _chooses_code(key))


def _chooses_code(key: str) -> bool:
    return key.startswith("_") or key.endswith("_implementation") or key in ("quantization_config", "auto_map")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, int | float) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _as_number(value: Any) -> Any:
    """A text such as "1e-6", which YAML does not read as a number, as the number that a person means."""
    found = number(value) if isinstance(value, str) else None
    return value if found is None else found


def _name_special_tokens(config: Any, sizes: Mapping[str, Any], tokenizer: Any) -> None:
    """Puts the tokenizer's tokens into the config, so that a saved model stops where its texts ended.

    A padding token that texts hold too stays out: an embedding does not train the row that its config calls padding.
    """
    ids = {key: getattr(tokenizer, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if ids["pad_token_id"] in (ids["bos_token_id"], ids["eos_token_id"]):
        ids["pad_token_id"] = None
    for key, value in ids.items():
        fits = value is None or value < config.vocab_size
        if tokenizer is not None and hasattr(config, key) and key not in sizes and fits:
            setattr(config, key, value)
