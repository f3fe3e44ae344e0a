"""Models of the Hugging Face hub: what its cache holds, and downloads that give up soon. Imports no torch."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lrexp.spec.errors import InputError

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")  # what is downloaded of a model
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")  # one of them makes a tokenizer
TOKENIZER_PATTERNS = ("tokenizer*.json", "vocab.*", "merges.txt", "special_tokens_map.json", "*.model", "config.json")
CONFIG = "config.json"
PROBE_SECONDS = 8.0  # how long the hub may take for its first answer


@dataclass(frozen=True)
class Snapshot:
    """A model's folder in the cache: its bytes, and what a run would miss in it."""

    folder: Path
    size: int
    lacks: tuple[str, ...]


def cached(hub: str, revision: str | None = None, reads_text: bool = True) -> Snapshot | None:
    """What the cache holds of a model, complete or not; None for nothing. Reads files only.

    Where it reads no text, it needs no tokenizer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(hub, revision=revision, allow_patterns=list(PATTERNS), local_files_only=True)
    except LocalEntryNotFoundError as error:
        found = getattr(error, "snapshot_path", None)  # there, but not all of it
    except ValueError:  # no name of a model can look like this
        return None
    if found is None:
        return None
    folder = Path(found)
    return Snapshot(folder, size(folder), lacks(folder, reads_text))


def download(
    hub: str, revision: str | None, name: str, tell: Callable[[int], None] | None = None, reads_text: bool = True
) -> Snapshot:
    """Downloads what a run needs of a model into the cache; `name` is the choice that messages name.

    `tell` is called with the bytes to come, once the hub has answered.

    Raises:
        InputError: the hub does not answer, does not have it, or has no safetensors of it.
    """
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise _not_there(hub, name, "HF_HUB_OFFLINE is set")
    with quiet():
        try:
            coming = _coming(hub, revision, name)
            if tell is not None:
                tell(coming)
            snapshot_download(hub, revision=revision, allow_patterns=list(PATTERNS))
        except InputError:
            raise
        except Exception as error:  # transport, hub and disk errors have no common type; all mean that it is not there
            raise _not_there(hub, name, why(error)) from None
    found = cached(hub, revision, reads_text)
    if found is None or found.lacks:
        raise _not_there(hub, name, f"the download lacks {', '.join(found.lacks) if found else 'everything'}")
    return found


def is_name(text: str) -> bool:
    """Whether something on the hub could be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def cached_tokenizer(hub: str) -> Path | None:
    """The folder with the tokenizer of a model on the hub, if the cache has it. Reads files only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(hub, allow_patterns=list(TOKENIZER_PATTERNS), local_files_only=True)
    except LocalEntryNotFoundError as error:
        found = getattr(error, "snapshot_path", None)
    return Path(found) if found is not None and has_tokenizer(Path(found)) else None


def tokenizer_folder(hub: str, name: str) -> Path:
    """The folder with the tokenizer of a model on the hub, downloaded if it is not in the cache; no weights are.

    Raises:
        InputError: neither a cached copy nor a hub that answers; `name` is the choice that messages name.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    found = cached_tokenizer(hub)
    if found is not None:
        return found
    if constants.HF_HUB_OFFLINE:
        raise _no_tokenizer(hub, name, "HF_HUB_OFFLINE is set")
    with quiet():
        try:
            ask(lambda: HfApi().model_info(hub, timeout=PROBE_SECONDS), PROBE_SECONDS)
            snapshot_download(hub, allow_patterns=list(TOKENIZER_PATTERNS))
        except Exception as error:  # transport, hub and disk errors have no common type; all mean that it is not there
            raise _no_tokenizer(hub, name, why(error)) from None
    found = cached_tokenizer(hub)
    if found is None:
        raise _no_tokenizer(hub, name, "the hub has no tokenizer of it")
    return found


def config_folder(hub: str, revision: str | None, name: str) -> Path:
    """The folder with the config of a model on the hub, downloaded if it is not in the cache; nothing else is.

    Raises:
        InputError: neither a cached copy nor a hub that answers; `name` is the choice that messages name.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(hub, CONFIG, revision=revision)
    if isinstance(found, str):
        return Path(found).parent
    if constants.HF_HUB_OFFLINE:
        raise _not_there(f"the config of {hub}", name, "HF_HUB_OFFLINE is set")
    with quiet():
        try:
            ask(lambda: HfApi().model_info(hub, revision=revision, timeout=PROBE_SECONDS), PROBE_SECONDS)
            return Path(hf_hub_download(hub, CONFIG, revision=revision)).parent
        except Exception as error:  # transport, hub and disk errors have no common type; all mean that it is not there
            raise _not_there(f"the config of {hub}", name, why(error)) from None


def has_tokenizer(folder: Path) -> bool:
    """Whether a file that makes a tokenizer is there."""
    return any(file.is_file() for pattern in TOKENIZERS for file in folder.glob(pattern))


def _coming(hub: str, revision: str | None, name: str) -> int:
    """Bytes of what is downloaded of a model. Raises InputError where the hub has no safetensors of it."""
    from huggingface_hub import HfApi

    def question() -> Any:
        return HfApi().model_info(hub, revision=revision, timeout=PROBE_SECONDS, files_metadata=True)

    files = {file.rfilename: file.size or 0 for file in ask(question, PROBE_SECONDS).siblings or ()}
    if not any(fnmatch(file, "*.safetensors") for file in files):
        raise InputError(
            f"model={name}: {hub} has no *.safetensors on the hub, and lrexp loads no pickled weights; convert them "
            "with save_pretrained and give model.path=DIR, or a model.revision that has them"
        )
    return sum(size for file, size in files.items() if any(fnmatch(file, pattern) for pattern in PATTERNS))


def ask(question: Callable[[], Any], seconds: float) -> Any:
    """The answer, or whatever error it ends with; TimeoutError after `seconds`, however long a name look-up hangs."""
    answer: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(question())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)  # one that hangs dies with the process
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return answer[0]


def why(error: Exception) -> str:
    """What went wrong with a download, on one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    response = getattr(error, "response", None)
    if getattr(response, "status_code", None) in (401, 403, 404):
        return "the hub does not have it, or shows it only after a login: hf auth login"
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"NetworkError", "TimeoutException", "TimeoutError", "ConnectionError"}:
        return f"no network: {said[:60]}"
    return said[:100]


def lacks(folder: Path, reads_text: bool = True) -> tuple[str, ...]:
    """What a model's folder misses or holds damaged: config, weights (all shards), and a tokenizer if it reads text."""
    found = [] if (folder / "config.json").is_file() else ["config.json"]
    weights = sorted(folder.glob("*.safetensors"))
    shards = _shards(folder / "model.safetensors.index.json")
    found += [shard for shard in shards if not (folder / shard).is_file()]
    found += [file.name for file in weights if file.name not in found and _damaged(file)]
    if not weights and not shards:
        found.append("*.safetensors")
    if reads_text and not has_tokenizer(folder):
        found.append("tokenizer.json")
    return tuple(found)


def size(folder: Path) -> int:
    """Bytes of the files below a folder, those behind links included; what cannot be read counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines of the hub's client, and bars only on a terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level, had_bars = logger.level, not are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    if had_bars and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if had_bars:
            enable_progress_bars()


def _shards(index: Path) -> list[str]:
    """The files that an index of weights names."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _damaged(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):  # checks the header against the file's length
            return False
    except (OSError, SafetensorError):
        return True


def _not_there(hub: str, name: str, reason: str) -> InputError:
    return InputError(
        f"model={name}: {hub} is not wholly in the cache and cannot be fetched ({reason}): run "
        f"`lrexp fetch model={name}` where there is a network, or give a folder with model.path=DIR"
    )


def _no_tokenizer(hub: str, name: str, reason: str) -> InputError:
    return InputError(
        f"model={name}: its tokenizer, {hub}, is not in the cache and cannot be fetched ({reason}): run `lrexp fetch "
        f"model={name}` where there is a network, or give model.tokenizer_path=DIR or model.tokenizer=embedded"
    )
