"""Models with an adapter of lrexp, with the same adapter of PEFT and with none, and one training step of each."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.engine.memory import synchronize
from lrexp.methods import catalog
from lrexp.methods.base import Batch, Context, Decisions, Method, Micro, Training
from lrexp.models.load import quiet
from lrexp.optim.build import make_optimizer
from lrexp.optim.group import Group

METHODS = ("lora", "pissa", "olora", "eva", "dora", "adalora")
SIDES = ("floor", "ours", "peft")
RANK, ALPHA, RATE = 8, 16.0, 1e-4
TOTAL, INIT_R, WARM, COOL = 10_000, 12, 1, 100  # AdaLoRA's run: steps, triplets at the start, tinit and tfinal
PEFT_STARTS = {"lora": True, "pissa": "pissa", "olora": "olora", "eva": "eva", "dora": True}


@dataclass(frozen=True)
class Setting:
    """Where and how both sides run. `cpu_time` counts the process's time, else the wall's."""

    device: torch.device
    cpu_time: bool
    model_path: str | None
    tokens: int
    delta_t: int  # AdaLoRA: steps from one choice of triplets to the next

    def now(self) -> float:
        """Seconds on the chosen clock, once the device has nothing left to do."""
        synchronize(self.device)
        return time.process_time() if self.cpu_time else time.perf_counter()


@dataclass(frozen=True)
class Subject:
    """A model, a batch for it, and what is trained beside an adapter."""

    title: str
    model: nn.Module
    batch: dict[str, Tensor]
    head: tuple[str, ...]
    task_type: str


def minilm(setting: Setting) -> Subject:
    """The encoder with a head of two classes on 32 x 64 tokens; of the same shape and drawn, without a path."""
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    quiet()
    torch.manual_seed(0)  # of the head
    if setting.model_path and Path(setting.model_path).is_dir():
        model = AutoModelForSequenceClassification.from_pretrained(
            setting.model_path, num_labels=2, dtype=torch.float32
        )
    else:
        shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        model = BertForSequenceClassification(BertConfig(**shape))  # type: ignore[arg-type]
    ids = torch.randint(1000, 20000, (32, 64), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    return _ready(setting, "MiniLM, 32 x 64 tokens", model, batch, ("classifier",), "SEQ_CLS")


def llama(setting: Setting) -> Subject:
    """One decoder block 2048 wide with a small vocabulary; its input requires a gradient, as inside of a model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=256, hidden_size=2048, intermediate_size=5504, num_hidden_layers=1,
                         num_attention_heads=16, use_cache=False)  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(256, (1, setting.tokens), generator=generator)
    x = torch.randn(1, setting.tokens, 2048, generator=generator)
    batch = {"inputs_embeds": x, "labels": labels}
    title = f"LLaMA block 2048 wide, {setting.tokens} tokens"
    return _ready(setting, title, LlamaForCausalLM(config), batch, (), "CAUSAL_LM")


SUBJECTS: dict[str, Callable[[Setting], Subject]] = {"minilm": minilm, "llama": llama}


def _ready(setting: Setting, title: str, model: nn.Module, batch: dict[str, Tensor], *rest: Any) -> Subject:
    """In training mode without dropout, so that all sides do the same work."""
    model.to(setting.device).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    batch = {name: tensor.to(setting.device) for name, tensor in batch.items()}
    if "inputs_embeds" in batch:
        batch["inputs_embeds"].requires_grad_(True)
    return Subject(title, model, batch, *rest)


def task_loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(**batch).loss


@dataclass
class Side:
    """A model to train: `step` is one step on the subject's batch, as a run makes it, without clipping.

    What a method does around the passes and the update is in the step: DoRA's norms, AdaLoRA's penalty and choices.
    """

    setting: Setting
    model: nn.Module
    batch: dict[str, Tensor]
    optimizer: Optimizer | None
    method: Method = field(default_factory=lambda: Method(None))
    after: Callable[[int], None] = lambda step: None
    done: int = 0

    def step(self) -> tuple[float, float, float]:
        """Seconds of the whole step, of the optimizer's part of it, and the loss."""
        now, step, updating = self.setting.now, self.done, 0.0
        began = now()
        self.method.before_step(step)
        loss = self.method.loss(self.model, self.batch, task_loss, Micro(0, True, 1.0))
        loss.backward()
        if self.optimizer:
            training = Training(self.optimizer, step)
            self.method.gradients_ready(step, training)
            self.method.before_update(step, training)
            update = now()
            self.optimizer.step()
            updating = now() - update
            self.method.after_update(step, training)
            self.after(step)
            self.optimizer.zero_grad(set_to_none=True)
        for tensor in self.batch.values():
            tensor.grad = None
        spent = now() - began
        self.done += 1
        return spent, updating, float(loss.detach())

    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def build(side: str, name: str, subject: Subject, setting: Setting) -> Side:
    """One of SIDES for a method; uses the subject's model up."""
    if side == "floor":
        return floor(subject, setting)
    return ours(name, subject, setting) if side == "ours" else peft(name, subject, setting)


def floor(subject: Subject, setting: Setting) -> Side:
    """No adapter; gradients flow back as far as they do with adapters on every linear layer."""
    model = subject.model.requires_grad_(False)
    trained = {}
    for name in subject.head:
        trained |= {f"{name}.{key}": p for key, p in model.get_submodule(name).requires_grad_(True).named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in subject.head:
            module.register_forward_hook(lambda _, __, output: None if output.requires_grad else _open(output))
    return Side(setting, model, subject.batch, _adamw([Group(trained)]) if trained else None)


def _open(output: Tensor) -> None:
    output.requires_grad_(True)


def _adamw(groups: list[Group]) -> Optimizer:
    return make_optimizer({"name": "adamw"}, RATE)(groups)


def method_of(name: str, delta_t: int = 10, **more: Any) -> Method:
    """lrexp's method on every linear layer."""
    section = {"name": name, "target_modules": "all-linear", "lora_alpha": ALPHA} | more
    if name == "adalora":
        section |= {"init_r": INIT_R, "target_r": RANK, "tinit": WARM, "tfinal": COOL, "deltaT": delta_t}
    else:
        section |= {"r": RANK}
    return catalog.build(section)


def context_of(subject: Subject, setting: Setting, cache: Path | None = None) -> Context:
    def calibration(name: str, count: int, size: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(2)
        for _ in range(count):
            yield {key: _another(tensor, key, generator) for key, tensor in subject.batch.items()}

    return Context(
        0, TOTAL, setting.device, torch.float32, subject.head, cache, task_loss=task_loss, calibration=calibration
    )


def _another(tensor: Tensor, key: str, generator: torch.Generator) -> Tensor:
    """Other tokens; what else a batch has stays."""
    if key == "input_ids":
        return torch.randint(1000, 20000, tensor.shape, generator=generator).to(tensor.device)
    if key == "inputs_embeds":
        return torch.randn(tensor.shape, generator=generator).to(tensor.device)
    return tensor


def ours(name: str, subject: Subject, setting: Setting) -> Side:
    """As a run builds it: the method decides, prepares the model, and gives the optimizer its groups."""
    method, context = method_of(name, setting.delta_t), context_of(subject, setting)
    decisions = method.decide(subject.model, context)
    model = method.prepare(subject.model, decisions, context)
    make = make_optimizer({"name": "adamw"}, RATE)
    optimizer = method.build_optimizer(method.parameter_groups(model), make)
    return Side(setting, model, subject.batch, optimizer, method)


def peft(name: str, subject: Subject, setting: Setting) -> Side:
    """PEFT's model of the same method, the optimizer the same. EVA starts from the directions that ours finds."""
    found = Decisions()
    if name == "eva":
        found = method_of(name).decide(subject.model, context_of(subject, setting))
    model: Any = wrapped_by_peft(name, subject, setting.delta_t)
    if name == "eva":
        start_eva(model, found)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    after = model.base_model.update_and_allocate if name == "adalora" else lambda step: None
    return Side(setting, model, subject.batch, _adamw([Group(trained)]), after=after)


def wrapped_by_peft(name: str, subject: Subject, delta_t: int, **more: Any) -> nn.Module:
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    common: dict[str, Any] = {"lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": "all-linear"}
    common["task_type"] = subject.task_type
    config_class: Any = AdaLoraConfig if name == "adalora" else LoraConfig
    if name == "adalora":
        common |= {"init_r": INIT_R, "target_r": RANK, "tinit": WARM, "tfinal": COOL, "deltaT": delta_t}
        common |= {"total_step": TOTAL, "orth_reg_weight": 0.1}
    else:
        common |= {"r": RANK, "use_dora": name == "dora", "init_lora_weights": PEFT_STARTS[name]} | more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = config_class(**common)
        return get_peft_model(subject.model, config)  # type: ignore[arg-type]


def start_eva(model: Any, found: Decisions) -> None:
    """Gives PEFT's layers the ranks and directions that were found."""
    from peft.tuners.lora.eva import initialize_lora_eva_weights

    ranks = found.values["ranks"]
    start = {f"base_model.model.{key}": found.tensors.get(key, torch.zeros(0, 1)) for key in ranks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        initialize_lora_eva_weights(model, eva_state_dict=start, show_progress_bar=False)
