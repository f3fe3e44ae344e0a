"""What `lrexp doctor` says of what lies on disk: models, data, caches, outputs, logins. Reads files only."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lrexp.commands import machine
from lrexp.commands.finding import Finding
from lrexp.report import quantity
from lrexp.spec.choice import Choice
from lrexp.spec.errors import InputError

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
PLACES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT", "LREXP_CACHE")
NO = ("", "0", "false", "no", "off")
FEW_BYTES = 2_000_000_000


def embedded_model() -> Iterator[Finding]:
    """The model of the default run, in the package."""
    from lrexp.models import hub
    from lrexp.models.load import EMBEDDED

    lacks = hub.lacks(EMBEDDED)
    if lacks:
        detail, todo = f"{EMBEDDED} lacks {', '.join(lacks)}", "install lrexp anew"
        yield Finding("model=embedded", "missing", detail, todo, needed=True)
    else:
        yield Finding("model=embedded", "ok", f"in the package, {quantity.memory(hub.size(EMBEDDED))}", needed=True)


def embedded_data() -> Iterator[Finding]:
    """The sources of the default run's data, in Python's own library."""
    from lrexp.tasks.sources import stdlib

    try:
        found = stdlib.modules()
    except InputError:
        detail = f"{stdlib.library_folder()} lacks most modules as .py files"
        todo = "use a regular CPython 3.11 to 3.14, or dataset=local dataset.path=FILE"
        yield Finding("dataset=docmatch", "missing", detail, todo, needed=True)
        return
    yield Finding("dataset=docmatch", "ok", f"{len(found)} modules in {stdlib.library_folder()}", needed=True)


def models() -> Iterator[Finding]:
    """Which of the ready models lie in the hub's cache."""
    from lrexp.models import hub
    from lrexp.spec import choices

    for choice in choices.choices("model"):
        name = choice.field("hub") and choice.default("hub")
        if not name:
            yield from _drawn(choice)
            continue
        found = hub.cached(name, choice.field("revision") and choice.default("revision"))
        what, todo = f"model={choice.name}", f"lrexp fetch model={choice.name}"
        if found is None:
            yield Finding(what, "missing", f"{name} is not in the cache", todo)
        elif found.lacks:
            yield Finding(what, "missing", f"incomplete: {', '.join(found.lacks)} in {found.folder}", todo)
        else:
            yield Finding(what, "ok", f"{quantity.memory(found.size)} in {found.folder}")


def _drawn(choice: Choice) -> Iterator[Finding]:
    """Where the tokenizer of a model lies whose weights are drawn."""
    from lrexp.models import hub
    from lrexp.models.load import TOKENIZERS

    name = choice.field("tokenizer") and choice.default("tokenizer")
    what = f"model={choice.name}"
    if choice.field("architecture") and choice.default("kind") == "vision":
        yield Finding(what, "ok", "weights are drawn, needs no tokenizer")
    if not name:
        return
    folder = TOKENIZERS.get(name) or hub.cached_tokenizer(name)
    if folder is not None and hub.has_tokenizer(folder):
        yield Finding(what, "ok", f"weights are drawn, tokenizer in {folder}")
    elif name in TOKENIZERS:
        yield Finding(what, "missing", f"{folder} lacks a tokenizer", "install lrexp anew")
    else:
        todo = f"lrexp fetch model={choice.name}, or model.tokenizer=embedded"
        yield Finding(what, "missing", f"weights are drawn; the tokenizer of {name} is not in the cache", todo)


def datasets() -> Iterator[Finding]:
    """Which of the ready data sets of the hub are cached, a line for each of its collections."""
    from lrexp.spec import choices
    from lrexp.tasks import build
    from lrexp.tasks.sources import hub_cache

    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for choice in choices.choices("dataset"):
        hub = choice.field("hub") and choice.default("hub")
        if hub and not build.is_streamed(choice.values):  # how much of a stream is needed, a run alone says
            config = choice.field("hub_config") and choice.default("hub_config")
            found[hub][choice.name] = hub_cache.prepared(hub, config) is not None
    for hub, there in found.items():
        cached = [name for name, is_there in there.items() if is_there]
        detail = f"{len(cached)} of {len(there)} data sets cached{': ' * bool(cached)}{', '.join(cached)}"
        whole = len(cached) == len(there)
        state = "ok" if whole else "note" if cached else "missing"
        yield Finding(f"data of {hub}", state, detail, "" if whole else "lrexp fetch dataset=NAME")


def caches() -> Iterator[Finding]:
    """The hub's cache and lrexp's own: where, whether they can be written to, how much room there is."""
    from huggingface_hub import constants

    from lrexp.models.hub import size
    from lrexp.spec.places import cache_folder

    hub = Path(constants.HF_HUB_CACHE)
    detail, writable = _room(hub)
    yield Finding("hub cache", "ok" if writable else "note", detail, "" if writable else "set HF_HOME=DIR to download")
    try:
        own = cache_folder()
    except (OSError, RuntimeError):  # no home at all
        own = None
    if own is None:
        detail = "none can be written to: decompositions and tokens are made anew by each run"
        yield Finding("lrexp cache", "note", detail, "set LREXP_CACHE=DIR")
    else:
        yield Finding("lrexp cache", "ok", f"{_room(own)[0]}, {quantity.memory(size(own))} in it")


def outputs() -> Iterator[Finding]:
    """Whether a run can be written to the working folder."""
    from lrexp.engine.folder import OUTPUTS

    detail, writable = _room(Path.cwd() / OUTPUTS)
    state = "ok" if writable else "missing"
    yield Finding("outputs", state, detail, "" if writable else "cd elsewhere, or output_dir=DIR", needed=True)


def wandb_login() -> Iterator[Finding]:
    """Whether wandb has a key, by its variable or its file; nothing is asked and no key is shown."""
    if not machine.is_installed("wandb"):
        return  # its own line has said so
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled"):
        yield Finding("wandb login", "note", f"WANDB_MODE={mode}", "unset WANDB_MODE to mirror runs as they go")
        return
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0].split(":")[0]
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        yield Finding("wandb login", "ok", f"by a variable, for {host}")
    elif _named_in_netrc(host):
        yield Finding("wandb login", "ok", f"for {host}")
    else:
        yield Finding("wandb login", "note", f"none for {host}: tracking=wandb stays offline", "wandb login")


def offline_variables() -> Iterator[Finding]:
    """Variables that forbid downloads or move the caches."""
    forbid = [f"{name}={os.environ[name]}" for name in OFFLINE if os.environ.get(name, "0").lower() not in NO]
    if forbid:
        yield Finding("downloads", "note", f"forbidden by {', '.join(forbid)}", "unset it for lrexp fetch")
    else:
        yield Finding("downloads", "ok", "no variable forbids them")
    moved = [f"{name}={os.environ[name]}" for name in PLACES if os.environ.get(name)]
    if moved:
        yield Finding("places", "note", ", ".join(moved))


def _room(place: Path) -> tuple[str, bool]:
    """What to say of a folder that may not be there yet, and whether it can be written to."""
    parent = place
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):  # permission bits do not tell of read-only file systems
            pass
    except OSError as error:
        return f"{place} cannot be written to ({error.strerror})", False
    free = shutil.disk_usage(parent).free
    scarce = ", which is little" if free < FEW_BYTES else ""
    return f"{place}, {quantity.memory(free)} free{scarce}", True


def _named_in_netrc(host: str) -> bool:
    """Whether the file of logins has an entry for the host."""
    named = os.environ.get("NETRC")
    try:
        files = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    except RuntimeError:  # no home at all
        return False
    for file in files:
        try:
            words = file.read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            continue
        if any(words[i : i + 2] == ["machine", host] for i in range(len(words))):
            return True
    return False
