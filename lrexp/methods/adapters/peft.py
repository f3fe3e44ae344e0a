"""PEFT: any tuner of HF PEFT that changes weights, trained in this loop and counted like every other method.

Mangrulkar et al. 2022, huggingface/peft; each tuner has a paper of its own, which PEFT's documentation names.

The tuner's layers stand in the place of the target modules and do what PEFT has them do. They and the head are trained;
`config` holds fields of PEFT's config by their own names, with PEFT's defaults. Parameters and buffers of a tuner have
the precision of the base, where PEFT keeps float32 beside a base in bf16. The numbers that PEFT draws come from the
run's seed, but for those that have a seed in the config (VeRA's projections, FourierFT's places): these are the same in
every run, as in PEFT. What a tuner computes from base and config (OSF's singular vectors, say) is computed again when a
run goes on or is read.

Not run here: prompt learning, which changes no weights; AdaLoRA (a method here), X-LoRA, Poly and Shadow, which need
more than plain steps; AdaMSS, whose shapes depend on the base's numbers; starts that change the base (PiSSA and OLoRA,
which are methods here).
Lily's layers route by their input and cannot be merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from lrexp.layers.peft_config import checked, refuse_unknown, require
from lrexp.layers.peft_tuner import inject, make_config, merge
from lrexp.linalg import random
from lrexp.methods.base import Context, Decisions, Method
from lrexp.models.roles import head_modules, matches, whole_layers
from lrexp.spec.convert import Value
from lrexp.spec.errors import InputError


@dataclass(frozen=True)
class PeftHyperparameters:
    """The tuner, its settings and its layers."""

    peft_type: str = "VERA"  # PEFT's name of the tuner
    config: dict[str, Value] = field(default_factory=dict)  # fields of the tuner's config in PEFT
    target_modules: str | tuple[str, ...] = ("q", "v")  # roles, names or patterns

    def __post_init__(self) -> None:
        """Raises InputError without PEFT, for a tuner that is not run here, and for fields that are not the tuner's."""
        require()
        refuse_unknown(self.peft_type)
        checked(self.peft_type, self.config)


class Peft(Method):
    """Hands the target modules to the tuner."""

    Hyperparameters = PeftHyperparameters

    def prepare(self, model: nn.Module, decisions: Decisions, context: Context) -> nn.Module:
        """Replaces the target modules by the tuner's layers; they and the head are trained, all else is frozen."""
        values = self.hyperparameters
        targets = self.targets(model, context)
        config = make_config(values.peft_type, checked(values.peft_type, values.config), model, targets)
        with random.kept_generators(context.device):
            random.seed_ambient(context.generator("init").initial_seed())
            inject(config, model, targets)
        for name in head_modules(model, context.head):
            model.get_submodule(name).requires_grad_(True)
        return model

    def targets(self, model: nn.Module, context: Context) -> list[str]:
        """Full names of the layers that are tuned: those of the roles, or for LN_TUNING norms by name."""
        wanted = self.hyperparameters.target_modules
        if self.hyperparameters.peft_type != "LN_TUNING":
            return whole_layers(model, wanted, context.head)
        norms = [name for name, module in model.named_modules() if type(module).__name__.endswith("Norm")]
        patterns = (wanted,) if isinstance(wanted, str) else wanted
        found = [name for name in norms if any(matches(pattern, name) for pattern in patterns)]
        if not found:
            known = sorted({name.rpartition(".")[2] for name in norms})
            raise InputError(
                f"method.peft_type=LN_TUNING trains norms: method.target_modules=[{','.join(known) or 'NAME'}]"
            )
        return found

    def finalize(self, model: nn.Module) -> nn.Module:
        """Merges every layer into a plain one of the original class. Raises InputError for Lily."""
        return merge(model)
