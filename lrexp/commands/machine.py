"""What `lrexp doctor` says of the machine: packages, processor, memory, GPUs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from lrexp import __version__
from lrexp.commands.finding import Finding, said
from lrexp.report import quantity

NEEDED = {  # distribution -> module; torch, which can be there and broken, has its own look
    "transformers": "transformers",
    "datasets": "datasets",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "hydra-core": "hydra",
    "omegaconf": "omegaconf",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "pyarrow": "pyarrow",
    "rich": "rich",
}
OPTIONAL = {  # distribution -> module, and what it is for
    "wandb": ("wandb", "tracking=wandb"),
    "sentencepiece": ("sentencepiece", "model=deberta_v3"),
    "pillow": ("PIL", "images in PNG or JPEG: dataset=mnist, dataset=cifar10"),
    "peft": ("peft", "loading what lrexp export writes"),
    "torchao": ("torchao", "model.quantization=int8, int4"),
    "bitsandbytes": ("bitsandbytes", "model.quantization=nf4, on CUDA"),
    "matplotlib": ("matplotlib", "lrexp plot"),
}
GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def python() -> Iterator[Finding]:
    """The interpreter and lrexp itself."""
    yield Finding("lrexp", "ok", f"{__version__} in {Path(__file__).resolve().parents[1]}")
    version = platform.python_version()
    enough = sys.version_info >= (3, 11)
    todo = "" if enough else "use Python 3.11 or newer"
    yield Finding("python", "ok" if enough else "missing", f"{version}, {sys.executable}", todo, needed=True)


def packages() -> Iterator[Finding]:
    """The packages that lrexp needs, and those that it can use."""
    for name, module in NEEDED.items():
        yield _package(name, module, "", needed=True)
    for name, (module, purpose) in OPTIONAL.items():
        yield _package(name, module, purpose, needed=False)


def torch() -> Iterator[Finding]:
    """Whether torch can be imported, and what it was built for."""
    try:
        import torch
    except Exception as error:
        todo = f"pip install 'torch{_asked('torch')}'"
        yield Finding("torch", "missing", f"cannot be imported ({said(error)})", todo, needed=True)
        return
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    if getattr(torch.version, "hip", None):
        built = f"ROCm {torch.version.hip}"
    yield _ranged("torch", torch.__version__, f"{torch.__version__}, {built}", needed=True)


def processor() -> Iterator[Finding]:
    """Name, usable cores and the threads that a run takes."""
    from lrexp.spec import choices

    cores, threads = usable_cores(), choices.choice("hardware", "auto").default("threads")
    limits = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    detail = ", ".join([_processor(), f"{cores} usable cores", f"{threads} threads a run", *limits])
    if cores < threads:
        yield Finding("processor", "note", detail, f"hardware.threads={cores}: more threads than cores are slow")
    else:
        yield Finding("processor", "ok", detail)


def memory() -> Iterator[Finding]:
    """Main memory: all of it, what is available, and the group's limit."""
    total, available = _main_memory()
    limit = next((int(text) for text in map(_text, GROUP_LIMITS) if text.isdigit() and int(text) < 1 << 60), None)
    parts = [f"{quantity.memory(total)} of main memory"]
    parts += [f"{quantity.memory(available)} available"] if available is not None else []
    parts += [f"this process may use {quantity.memory(limit)}"] if limit is not None and limit < total else []
    short = available is not None and available < 1_500_000_000
    yield Finding("memory", "note" if short else "ok", ", ".join(parts), "the default run takes 1 GB" if short else "")


def cuda() -> Iterator[Finding]:
    """The CUDA devices that torch sees."""
    torch = _torch()
    if torch is None:
        return
    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
        if driver and not torch.version.cuda:
            todo = "install a torch that is built for CUDA"
            yield Finding("cuda", "missing", "an NVIDIA driver is here, but this torch is built for the CPU", todo)
        elif driver and os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
            yield Finding("cuda", "note", "CUDA_VISIBLE_DEVICES hides all devices", "unset CUDA_VISIBLE_DEVICES")
        elif driver:
            yield Finding("cuda", "missing", "an NVIDIA driver is here, but torch sees no device", "see nvidia-smi")
        else:
            yield Finding("cuda", "note", "no device: hardware=auto takes the CPU")
        return
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        detail = f"{found.name}, {quantity.memory(found.total_memory)}, compute capability {found.major}.{found.minor}"
        yield Finding(f"cuda:{index}", "ok", detail)


def bf16() -> Iterator[Finding]:
    """Whether bf16 is fast on what hardware=auto takes."""
    torch = _torch()
    if torch is None:
        return
    if torch.cuda.is_available():
        fast, where = torch.cuda.is_bf16_supported(including_emulation=False), "the GPU"
    else:
        flags = set(_text("/proc/cpuinfo").replace("\n", " ").split())
        units = sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"})
        fast, where = bool(units), f"the CPU ({', '.join(units)})" if units else "the CPU"
    if fast:
        yield Finding("bf16", "ok", f"{where} computes in it: hardware.precision=bf16_autocast saves time")
    else:
        yield Finding("bf16", "note", f"{where} has no units for it: it works, slower", "hardware.precision=float32")


def launchers() -> Iterator[Finding]:
    """How many runs of a sweep fit at a time."""
    from lrexp.spec import choices

    torch, threads = _torch(), choices.choice("hardware", "auto").default("threads")
    devices = torch.cuda.device_count() if torch is not None and torch.cuda.is_available() else 0
    cores = usable_cores()
    fit = devices or max(1, cores // threads)
    per = "one per device" if devices else f"of {threads} threads"
    todo = f"hardware.threads=1: {cores} at a time" if not devices and fit < cores else ""
    yield Finding("launchers", "ok", f"serial; pool: {fit} run{'s' * (fit > 1)} at a time, {per}", todo)
    if shutil.which("sbatch") is not None:
        yield _package("submitit", "submitit", "--launcher slurm", needed=False)


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota, _, period = _text("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit() and int(period):
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def is_installed(module: str) -> bool:
    """Whether there is a package of this name; a folder with the same name, such as wandb's own, is none."""
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(module)
        return found is not None and found.origin is not None
    return False


def _package(name: str, module: str, purpose: str, needed: bool) -> Finding:
    if not is_installed(module):
        detail = "not installed" + (f"; only for {purpose}" if purpose else "")
        return Finding(name, "missing" if needed else "note", detail, f"pip install '{name}{_asked(name)}'", needed)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "note", "installed, without a version", needed=needed)
    return _ranged(name, version, version, needed)


def _ranged(name: str, version: str, detail: str, needed: bool) -> Finding:
    """The finding of a package that is there: a note where its version is not what lrexp asks for."""
    asked = _asked(name)
    if asked:
        from packaging.specifiers import SpecifierSet

        if not SpecifierSet(asked).contains(version, prereleases=True):
            return Finding(name, "note", f"{detail}; lrexp asks for {asked}", f"pip install '{name}{asked}'", needed)
    return Finding(name, "ok", detail, needed=needed)


def _asked(name: str) -> str:
    """The range of versions that lrexp asks for; "" where it does not say."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in metadata.requires("lrexp") or ()]
    except (ImportError, ValueError, metadata.PackageNotFoundError):
        return ""
    return next((str(one.specifier) for one in wanted if one.name == name), "")


def _torch() -> Any:
    """The module, None where it cannot be imported: its own look has said so."""
    try:
        import torch
    except Exception:
        return None
    return torch


def _processor() -> str:
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _main_memory() -> tuple[int, int | None]:
    """Bytes of main memory, and those available where the system says."""
    lines = dict(line.split(":", 1) for line in _text("/proc/meminfo").splitlines() if ":" in line)
    if "MemTotal" in lines and "MemAvailable" in lines:
        total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        return total, available
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None


def _text(path: str) -> str:
    """What a file of the system says, "" where it does not."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
