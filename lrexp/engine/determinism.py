"""What torch is set to while a run goes on, and set back to afterwards: a caller's process stays as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cuda

from lrexp.engine.forward import compiler
from lrexp.engine.identify import Run
from lrexp.linalg.random import kept_generators


@contextmanager
def settled(run: Run) -> Iterator[None]:
    """Within the block: the run's threads, deterministic algorithms, generators and compiled programs of its own."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    efficient, cudnn = cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()
    if run.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        cuda.enable_mem_efficient_sdp(False)  # these two only warn that their backward pass does not repeat
        cuda.enable_cudnn_sdp(False)
    torch.set_num_threads(run.spec.hardware.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with kept_generators(run.device), compiler(run.spec):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        cuda.enable_mem_efficient_sdp(efficient)
        cuda.enable_cudnn_sdp(cudnn)
