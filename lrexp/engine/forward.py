"""How the forward pass of training runs: activations computed again instead of kept, the model compiled.

Evaluations know neither: a run's metrics are had again without a compiler. A compiled run repeats and resumes to the
bit because the program of a batch is a function of its shape alone. Shapes are static, and each has a program of its
own: a dynamic program would depend on which shapes came first, and past torch's limit of programs later shapes would
run eagerly. Nothing is chosen by timing, dropout draws what it draws eagerly, and no program outlives its run.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrexp.spec.errors import InputError
from lrexp.spec.run_spec import RunSpec, TrainingSpec

BACKEND = "inductor"
PROGRAMS = 4096  # of one function; a run that needs more compiles in every step, and fails
LOUD = ("torch._dynamo", "torch._inductor", "torch._functorch")  # loggers that warn of what a user cannot change
OFF = "training.torch_compile=false runs without it"

Opened = Callable[[], AbstractContextManager[object]]


def refuse_unfit(model: nn.Module, spec: RunSpec, device: torch.device) -> None:
    """Raises InputError where the spec asks for what the model or this machine lacks. `model` is not used after it."""
    if spec.training.gradient_checkpointing:
        try:
            recompute_activations(model)
        except ValueError:
            raise InputError(
                f"training.gradient_checkpointing: transformers has none for {type(model).__name__}; set it to false."
            ) from None
    lacking = _lacking(device) if spec.training.torch_compile else None
    if lacking:
        raise InputError(f"training.torch_compile needs {lacking}, which is not found here; {OFF}.")


def arrange(model: nn.Module, training: TrainingSpec) -> None:
    """Makes the prepared model's forward pass what the switches say, in place: no parameter changes its name."""
    if training.gradient_checkpointing:
        recompute_activations(model)
    if training.torch_compile:
        model.compile(backend=BACKEND, dynamic=False)


def recompute_activations(model: nn.Module) -> None:
    """Keeps the inputs of each layer alone and computes the rest again in the backward pass, with the same dropout.

    Only while training. Raises ValueError for a model that transformers cannot do this for.
    """
    either: Any = model  # the second name is that of older versions of transformers
    enable = getattr(either, "activation_checkpointing_enable", None) or either.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    either.disable_input_require_grads()  # needed by reentrant checkpoints alone: what is frozen below stays out of it
    either.config.use_cache = False  # would be switched off in every step, with a warning that breaks compiled programs


@contextmanager
def compiler(spec: RunSpec) -> Iterator[None]:
    """Within the block torch compiles as the module's docstring says; nothing changes for a run that does not."""
    if not spec.training.torch_compile:
        yield
        return
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    limits = {"recompile_limit": PROGRAMS, "accumulated_recompile_limit": PROGRAMS}
    kernels = {"fallback_random": True, "deterministic": True, "cpp.threads": spec.hardware.threads}
    known = inductor.get_config_copy()  # the first torch that lrexp takes lacks some
    with ExitStack() as stack:
        stack.enter_context(dynamo.patch(limits | {"fail_on_recompile_limit_hit": True}))
        stack.enter_context(inductor.patch({k: v for k, v in kernels.items() if k in known}))
        stack.enter_context(_quiet())
        stack.callback(torch.compiler.reset)
        stack.callback(sys.setrecursionlimit, sys.getrecursionlimit())  # which the compiler raises
        torch.compiler.reset()
        yield


def evaluation(autocast: Opened, training: TrainingSpec) -> Opened:
    """A function that opens the context of one forward pass in an evaluation: never compiled."""
    if not training.torch_compile:
        return autocast

    @contextmanager
    def eagerly() -> Iterator[None]:
        with torch.compiler.set_stance("force_eager"), autocast():
            yield

    return eagerly


class CompileClock:
    """`seconds` that torch has spent on compiling since `start`, in this process."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    @contextmanager
    def running(self, training: TrainingSpec) -> Iterator[None]:
        """Within the block the clock goes whenever something is compiled."""
        if not training.torch_compile:
            yield
            return
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(self._begin)
        callback_handler.register_end_callback(self._end)
        try:
            yield
        finally:
            callback_handler.remove_start_callback(self._begin)
            callback_handler.remove_end_callback(self._end)

    def _begin(self, _: object) -> None:
        self._began = time.perf_counter()

    def _end(self, _: object) -> None:
        self.seconds += time.perf_counter() - self._began


def compilers_words(error: Exception) -> str | None:
    """The line that tells why torch.compile itself has failed; None for an error that is not its own."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.endswith("raised:")]
    return lines[0][:200] if lines else type(error).__name__


def _lacking(device: torch.device) -> str | None:
    """What torch.compile would miss on this machine."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton"
    from torch._inductor import cpp_builder, exc

    try:
        command = cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError, OSError):
        return "a C++ compiler"
    if shutil.which(command) is None:
        return f"a C++ compiler ({command})"
    headers = Path(sysconfig.get_path("include"))
    return None if (headers / "Python.h").is_file() else f"Python's headers ({headers / 'Python.h'})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the compiler's warnings to itself, but for LREXP_DEBUG=1."""
    if os.environ.get("LREXP_DEBUG") == "1":
        yield
        return
    levels = {name: getLogger(name).level for name in LOUD}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")
        for name in LOUD:
            getLogger(name).setLevel(ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                getLogger(name).setLevel(level)
