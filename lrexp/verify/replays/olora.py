"""Replay of OLoRA: the start from the weight's first columns, then training from the stored one."""

from __future__ import annotations

from lrexp.methods.adapters.olora import OLoRA
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import lora_section, train_from_taken_start
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


@replay("olora", "init_train", results=("scaling",))
def init_train(case: Case) -> Outcome:
    """The start is compared; training goes on from the stored one."""
    return train_from_taken_start(OLoRA(from_mapping(OLoRA.Hyperparameters, lora_section(case), "method")), case)[0]
