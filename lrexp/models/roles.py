"""Which layers of a model play which role: targets of a method by role, by name or by pattern.

Roles are `q k v o up down gate` and the groups `attention`, `mlp` and `all-linear`. Names are those of BERT, RoBERTa,
DeBERTa, DistilBERT, ALBERT, ModernBERT, ViT, GPT-2, GPT-NeoX, LLaMA, OPT, Phi-3 and T5; anything else is reached by a
module's name (its last parts are enough) or by a regular expression over the whole name.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from lrexp.spec.errors import InputError

Value = TypeVar("Value")
Slices = tuple[bool, ...]  # which equal slices of a fused layer's output are meant; () is the whole layer

ADAPTABLE = (nn.Linear, Conv1D, nn.Conv2d, nn.Embedding)
LINEAR = (nn.Linear, Conv1D)
# These read a child's weight without calling the child: an adapter there would be passed by.
_READ_PAST = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_ATTENTION = r"\w*[aA]tt\w*"
_ROLES = {
    "q": r"query|query_proj|q_proj|q_lin|q_attn|to_q|q",
    "k": r"key|key_proj|k_proj|k_lin|to_k|k",
    "v": r"value|value_proj|v_proj|v_lin|to_v|v",
    "o": rf"o_proj|out_lin|to_out\.0|attention\.output\.dense|{_ATTENTION}\.(c_proj|dense|out_proj|proj|Wo|o)",
    "up": r"intermediate\.dense|up_proj|lin1|c_fc|fc1|wi|wi_1|ffn|dense_h_to_4h",
    "down": r"(?<!attention\.)output\.dense|down_proj|lin2|fc2|wo|mlp\.(c_proj|Wo)|ffn_output|dense_4h_to_h",
    "gate": r"gate_proj|wi_0",
}
_GROUPS = {"attention": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}
# Fused layers whose output is a row of equal blocks, one per role.
_FUSED = {
    r"crossattention\.c_attn": ("k", "v"),
    r"c_attn|qkv|Wqkv": ("q", "k", "v"),
    r"gate_up_proj|mlp\.Wi": ("gate", "up"),
}
# Fused layers whose blocks are interleaved by head or of unequal size: only all their roles together select them.
_WHOLE = {r"query_key_value|qkv_proj": ("q", "k", "v")}


def select(model: nn.Module, target_modules: str | tuple[str, ...], head: tuple[str, ...]) -> list[str]:
    """Names of the target modules, in the model's order; see `selection`."""
    return list(selection(model, target_modules, head))


def selection(model: nn.Module, target_modules: str | tuple[str, ...], head: tuple[str, ...]) -> dict[str, Slices]:
    """The target modules in the model's order, each with the slices of a fused output that are meant (() is all).

    A role never takes a module of the head, the output layer or a layer whose weight is tied to another's. A name or
    a pattern that reaches one of them, and a target that matches nothing, raise InputError.
    """
    targets = (target_modules,) if isinstance(target_modules, str) else tuple(target_modules)
    if not targets:
        raise InputError("target_modules is empty: give a role (q, v, attention, all-linear, ...) or names of modules")
    candidates = _candidates(model)
    closed = _closed(model, candidates, head)
    chosen: dict[str, Slices] = {}
    roles = [role for target in targets for role in _GROUPS.get(target, (target,)) if role in _ROLES]
    for target in targets:
        if target in _ROLES or target in _GROUPS or target == "all-linear":
            found = _by_role(candidates, closed, target, roles)
        else:
            found = dict.fromkeys(_by_name(candidates, closed, target), ())
        if not found:
            raise InputError(
                f"target_modules: {target!r} matches no layer of {type(model).__name__}; {_near(target, candidates)}"
            )
        for name, slices in found.items():
            chosen[name] = _union(chosen.get(name, slices), slices)
    return {name: chosen[name] for name in candidates if name in chosen}


def whole_layers(
    model: nn.Module, target_modules: str | tuple[str, ...], head: tuple[str, ...], kinds: tuple[type, ...] = ADAPTABLE
) -> list[str]:
    """The target modules for a method that works on a layer's weight as a whole; see `selection`.

    Raises InputError for a layer of another kind, and for a part of a fused layer.
    """
    found = selection(model, target_modules, head)
    for name, slices in found.items():
        if not isinstance(model.get_submodule(name), kinds):
            known = " or ".join(kind.__name__ for kind in kinds)
            kind = type(model.get_submodule(name)).__name__
            raise InputError(f"target_modules: {name} is a {kind}, and this method takes {known}; leave it out")
        if not all(slices):
            raise InputError(f"target_modules: {name} is a fused layer, taken whole: name all its roles, or the layer")
    return list(found)


def head_modules(model: nn.Module, head: tuple[str, ...]) -> list[str]:
    """Names of the topmost modules that the head's patterns match, in the model's order: trained beside an adapter."""
    names = [name for name, _ in model.named_modules() if any(matches(pattern, name) for pattern in head)]
    return [name for name in names if not any(name.startswith(other + ".") for other in names)]


def matches(pattern: str, name: str) -> bool:
    """Whether a module is meant: by its name, by the last parts of it, or by a regular expression over all of it."""
    if name == pattern or name.endswith("." + pattern):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from None


def pattern_values(
    model: nn.Module, patterns: Mapping[str, Value], names: Iterable[str], where: str
) -> dict[str, Value]:
    """A value for each of `names` that one of the patterns (role, name, regular expression) reaches; the first counts.

    Raises InputError for a pattern that reaches none of them; `where` is the field it stands in.
    """
    if not patterns:
        return {}
    names = list(names)
    candidates = _candidates(model)
    values: dict[str, Value] = {}
    for pattern, value in patterns.items():
        roles = _GROUPS.get(pattern, (pattern,) if pattern in _ROLES else ())
        reached = [n for n in names if matches(pattern, n) or any(_slices(n, role) is not None for role in roles)]
        if not reached:
            near = _near(pattern, {n: candidates[n] for n in names if n in candidates})
            raise InputError(f"{where}: {pattern!r} matches none of the target modules; {near}")
        for name in reached:
            values.setdefault(name, value)
    return values


def own_linears(model: nn.Module, head: tuple[str, ...]) -> list[str]:
    """Linear layers whose weight is theirs alone, in the model's order: not the head's, the output layer's, tied."""
    candidates = _candidates(model)
    closed = _closed(model, candidates, head)
    return [name for name, module in candidates.items() if type(module) in LINEAR and name not in closed]


def plays(name: str, role: str) -> bool:
    """Whether the module of this name plays the role, alone or as a part of a fused layer."""
    return _slices(name, role) is not None


def group_of(name: str) -> str | None:
    """The group of roles, "attention" or "mlp", that the module of this name is in; None for neither."""
    return next((group for group, roles in _GROUPS.items() if any(plays(name, role) for role in roles)), None)


def _candidates(model: nn.Module) -> dict[str, nn.Module]:
    hidden = {id(child) for m in model.modules() if isinstance(m, _READ_PAST) for child in m.children()}
    return {n: m for n, m in model.named_modules() if n and isinstance(m, ADAPTABLE) and id(m) not in hidden}


def _closed(model: nn.Module, candidates: dict[str, nn.Module], head: tuple[str, ...]) -> dict[str, str]:
    """Candidates that no role takes, with the reason: head, output layer, tied weight."""
    holders = Counter(id(m._parameters.get("weight")) for m in model.modules())
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    heads = head_modules(model, head)
    closed: dict[str, str] = {}
    for name, module in candidates.items():
        if any(name == h or name.startswith(h + ".") for h in heads):
            closed[name] = "lies in the head, which is trained whole"
        elif holders[id(module.weight)] > 1:
            closed[name] = "shares its weight with another layer, which a change here would break"
        elif module is output:
            closed[name] = ""  # by name it may be had
    return closed


def _by_role(
    candidates: dict[str, nn.Module], closed: dict[str, str], target: str, roles: list[str]
) -> dict[str, Slices]:
    """What a role or a group of roles takes; `roles` are the roles of all targets together."""
    found: dict[str, Slices] = {}
    for name, module in candidates.items():
        if name in closed or not isinstance(module, nn.Linear | Conv1D):
            continue
        if target == "all-linear":
            found[name] = ()
            continue
        for role in _GROUPS.get(target, (target,)):
            slices = _slices(name, role)
            if slices is None:
                continue
            missing = [r for r in _interleaved(name) if r not in roles]
            if missing:
                raise InputError(
                    f"target_modules: {name} holds q, k and v interleaved, {role} alone cannot be had; "
                    f"add {' and '.join(missing)}, or name the layer"
                )
            found[name] = _union(found[name], slices) if name in found else slices
    return found


def _slices(name: str, role: str) -> Slices | None:
    """The slices of the layer's output that play the role: () for the whole layer, None for none."""
    if re.fullmatch(rf"(.*\.)?({_ROLES[role]})", name) or role in _interleaved(name):
        return ()
    for pattern, parts in _FUSED.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return tuple(part == role for part in parts) if role in parts else None
    return None


def _interleaved(name: str) -> tuple[str, ...]:
    return next((parts for pattern, parts in _WHOLE.items() if re.fullmatch(rf"(.*\.)?({pattern})", name)), ())


def _by_name(candidates: dict[str, nn.Module], closed: dict[str, str], target: str) -> list[str]:
    found = [name for name in candidates if matches(target, name)]
    for name in found:
        if closed.get(name):
            raise InputError(f"target_modules: {target!r} reaches {name}, which {closed[name]}")
    return found


def _union(one: Slices, other: Slices) -> Slices:
    return tuple(a or b for a, b in zip(one, other, strict=True)) if one and other else ()


def _near(target: str, candidates: Mapping[str, nn.Module]) -> str:
    names = sorted({name.rsplit(".", 1)[-1] for name in candidates})
    known = [word for word in (*names, *candidates, *_ROLES, *_GROUPS, "all-linear") if word != target]
    close = difflib.get_close_matches(target, known, n=2, cutoff=0.6)
    meant = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{meant}its layers are named {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
