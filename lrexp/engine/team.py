"""The processes that train one run together: each has batches of its own, their gradients are summed, all move alike.

There is no wrapper around the model, so that a method's hooks, penalties and per-layer updates are what they are in one
process. The first process is the run: it alone evaluates, writes and listens to signals. The others keep the same
weights and moments by doing the same arithmetic; that they started from the same is checked. gloo carries the sums on
the CPU, NCCL on CUDA. The first process starts the others, on its own machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lrexp.engine.process import ending, start
from lrexp.spec.errors import RunError
from lrexp.spec.run_spec import RunSpec

BUCKET = 1 << 25  # bytes of gradients that are summed at a time
PATIENCE = timedelta(days=7)  # the others wait for an evaluation as long as it takes; a dead process is seen at once
GRACE = 5.0  # seconds for the others to say why they have ended
RANK, MEETING = "LREXP_PROCESS", "LREXP_MEETING"  # which one a process is, and the file where all meet


@dataclass
class Team:
    """This process's number and how many there are."""

    rank: int = 0
    size: int = 1
    others: list[tuple[subprocess.Popen[str], IO[str]]] = field(default_factory=list)  # that this process has started

    @property
    def is_first(self) -> bool:
        """Whether this process is the run: it evaluates and writes."""
        return self.rank == 0

    def total(self, *values: float, device: torch.device) -> list[float]:
        """The sums of some numbers over all processes, in float64."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the gradients over all processes; one that only some have is zero in the others."""
        if self.size == 1:
            return
        parameters = list(parameters)
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        wanted = [p for p, is_there in zip(parameters, there.tolist(), strict=True) if is_there]
        for p in wanted:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in _buckets([p.grad for p in wanted if p.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    @torch.no_grad()
    def sum_gradient(self, gradient: Tensor) -> None:
        """Sums one gradient over all processes: each comes to it in the same order, that of the backward pass."""
        if self.size > 1:
            dist.all_reduce(gradient)

    def refuse_unequal(self, model: nn.Module) -> None:
        """Raises RunError unless all processes begin from the same trained weights; waits for all of them."""
        if self.size == 1:
            return
        trained = [p.detach().double() for p in model.parameters() if p.requires_grad]
        sums = torch.stack([total for t in trained for total in (t.sum(), t.square().sum())])
        least, most = sums.clone(), sums.clone()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        if not torch.equal(least, most):
            raise RunError(f"the {self.size} processes do not start from the same weights: are their machines alike?")

    def reason(self) -> RunError | None:
        """Why a process that this one has started came to its end, None where none did."""
        last = time.monotonic() + GRACE
        while self.others and time.monotonic() < last:
            for rank, (process, errors) in enumerate(self.others, start=1):
                if code := process.poll():
                    what = ending(code, errors)[1]
                    return RunError(f"process {rank} of hardware.processes={self.size} has ended: {what}")
            time.sleep(0.1)
        return None


ALONE = Team()


@contextmanager
def together(spec: RunSpec, spec_hash: str, folder: Path) -> Iterator[Team]:
    """Within the block the processes of the run's spec are connected; those that were started here end with it."""
    size = spec.hardware.processes
    if size == 1:
        yield Team()
        return
    cuda = spec.hardware.device == "cuda"
    with tempfile.TemporaryDirectory(prefix="lrexp-") as place:
        meeting = os.environ.get(MEETING, f"file://{place}/meeting")
        team = Team(number(), size)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host's own name may lead nowhere
        if team.is_first:
            text = spec.to_yaml({"spec_hash": spec_hash})
            team.others = [_start(rank, meeting, text, folder) for rank in range(1, size)]
        try:
            if cuda:
                torch.cuda.set_device(team.rank)
            dist.init_process_group("nccl" if cuda else "gloo", meeting, PATIENCE, size, team.rank)
            yield team
        finally:
            for process, errors in team.others:
                if sys.exc_info()[0] is not None:
                    process.kill()
                process.wait()
                assert process.stdin is not None
                process.stdin.close()
                errors.close()
            if dist.is_initialized():
                dist.destroy_process_group()


def number() -> int:
    """Which process of its run this one is, from 0."""
    return int(os.environ.get(RANK, "0"))


def _start(rank: int, meeting: str, text: str, folder: Path) -> tuple[subprocess.Popen[str], IO[str]]:
    """Another process of the run, the spec on its standard input, which stays open as long as this one lives."""
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by `together`)
    return start(folder, text, None, os.environ | {RANK: str(rank), MEETING: meeting}, errors), errors


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in their order, as many of one dtype together as fit a bucket."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
