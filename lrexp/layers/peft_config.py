"""What PEFT's tuners take: which there are, and their configs from plain values, each field checked by name and type.

PEFT is optional and imported within the functions alone. A config can come from a stranger's file, so that no field
passes that names a module, a file or a model, and no text but of those that PEFT looks up in a list.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from lrexp.models.load import quiet
from lrexp.spec.convert import Value, convert, unknown
from lrexp.spec.errors import InputError

if TYPE_CHECKING:
    from peft import PeftConfig

OUR_TARGETS = "set method.target_modules"
SET_HERE = {  # fields that are decided outside the config, and how
    "peft_type": "set method.peft_type",
    "target_modules": OUR_TARGETS,
    "exclude_modules": OUR_TARGETS,
    "layers_to_transform": OUR_TARGETS,
    "layers_pattern": OUR_TARGETS,
    "target_parameters": OUR_TARGETS,
    "feedforward_modules": "it is the layers of method.target_modules that play the role down",
    "modules_to_save": "the model's head is trained with every adapter",
    "trainable_token_indices": "set method.peft_type=TRAINABLE_TOKENS",
    "task_type": "the data set says it",
    "base_model_name_or_path": "set model.path",
    "revision": "set model.revision",
    "inference_mode": "a run trains",
    "fan_in_fan_out": "the layers say it",
    "progressbar": "lrexp has its own",
}
NOT_HERE = {  # fields that need what a run does not have, and why
    "megatron_core": "it names a module to import",
    "auto_mapping": "it names code",
    "peft_version": "it is a record",
    "layer_replication": "it changes the base model",
    "alora_invocation_tokens": "it needs PEFT's own forward pass",
    "generator_seed": "its generator's state is in no checkpoint",
    "runtime_offload_base_weight": "it takes the base's weights out of the model",
}
TEXTS = ("bias", "act_fn", "wavelet_family", "variant", "init_weights", "mask_type")  # looked up in lists of PEFT's own
NEED_MORE = {  # values of init_lora_weights that only set something up, or change the base: ours say how
    "pissa": "method=pissa",
    "olora": "method=olora",
    "eva": "method=eva",
    "corda": "it needs calibration outside of the run",
    "loftq": "the base's weights would change",
    "lora_ga": "method=lora_ga",
}
REFUSED = {  # tuners that a loop of plain steps cannot drive
    "ADALORA": "it needs a call of PEFT's in every step; method=adalora does it",
    "ADAMSS": "its shapes depend on the base's numbers, so that no run can be planned or read again",
    "XLORA": "it mixes adapters that are trained already",
    "POLY": "it needs task ids in every batch",
    "SHADOW": "it runs a second model beside the first",
    "ADAPTION_PROMPT": "it is prompt learning, no change of weights",
    "MIXED": "it mixes other tuners",
}
SCALARS = (int, float, bool, str, types.NoneType)


def require() -> None:
    """Raises InputError where PEFT is not installed."""
    quiet()
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError('method=peft needs PEFT, which is not there: pip install "lrexp[peft]"') from None


def tuner_names() -> list[str]:
    """Names of the tuners that a run can train, as the installed PEFT has them."""
    return [name for name in _known() if _refusal(name) is None]


def refuse_unknown(peft_type: str) -> None:
    """Raises InputError for a name that is no tuner of PEFT's, and for one that cannot be trained here."""
    if peft_type not in _known():
        raise InputError(unknown(f"method.peft_type={peft_type}", peft_type, tuner_names(), "tuner of PEFT"))
    reason = _refusal(peft_type)
    if reason is not None:
        raise InputError(f"method.peft_type={peft_type} is not run here: {reason}")


def checked(peft_type: str, values: Mapping[str, Value]) -> dict[str, Any]:
    """The config's fields in PEFT's own types. Raises InputError for unknown, foreign and wrong ones."""
    cls = config_class(peft_type)
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    hints = get_type_hints(cls)
    open_fields = [n for n in known if n not in SET_HERE and n not in NOT_HERE and _options(n, hints[n])]
    found = {}
    for name, value in values.items():
        where = f"method.config.{name}"
        if name in SET_HERE:
            raise InputError(f"{where} is not given here: {SET_HERE[name]}")
        if name not in known:
            raise InputError(unknown(where, name, sorted(open_fields), f"field of PEFT's {cls.__name__}", "Fields"))
        if name in NOT_HERE:
            raise InputError(f"{where} is refused: {NOT_HERE[name]}")
        if name not in open_fields:
            raise InputError(f"{where} is refused: it takes a structure or a text that a run spec does not hold")
        found[name] = plain_list(convert(value, Union[tuple(_options(name, hints[name]))], where))  # noqa: UP007
        if name == "init_lora_weights" and (why := NEED_MORE.get(str(value).partition("_niter")[0])):
            raise InputError(f"{where}={value} is refused: {why}")
    return found


def config_class(peft_type: str) -> type[PeftConfig]:
    """The dataclass of a tuner's settings."""
    return _known()[peft_type]


def plain_list(value: Any) -> Any:
    """Lists, as PEFT takes them, in place of tuples."""
    return list(value) if isinstance(value, tuple) else value


def _known() -> dict[str, type[PeftConfig]]:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _refusal(peft_type: str) -> str | None:
    """Why a tuner is not run here; None where it is."""
    from peft.config import PromptLearningConfig

    if peft_type in REFUSED:
        return REFUSED[peft_type]
    if issubclass(config_class(peft_type), PromptLearningConfig):
        return "it is prompt learning, no change of weights"
    return None


def _options(name: str, hint: Any) -> list[Any]:
    """The types among those of a field that a spec can hold: scalars, choices and lists of scalars."""
    if get_origin(hint) in (Union, types.UnionType):
        return [option for part in get_args(hint) for option in _options(name, part)] if _says_more(name, hint) else []
    if get_origin(hint) is Literal or (hint in SCALARS and (hint is not str or name in TEXTS)):
        return [hint]
    if get_origin(hint) is list and get_args(hint)[0] in (int, float, bool):
        return [tuple[get_args(hint)[0], ...]]
    return []


def _says_more(name: str, hint: Any) -> bool:
    """Whether something is left of a union besides null."""
    return any(part is not types.NoneType and _options(name, part) for part in get_args(hint))
