"""Where a model's files lie: package, local folder or the hub's cache; safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

from lrexp.models.model_spec import ModelSpec
from lrexp.spec.errors import InputError

EMBEDDED = Path(__file__).parent / "embedded"
TOKENIZERS = {"embedded": Path(__file__).parent / "tokenizer"}  # those that ship, by name
TOKENIZER_FILES = ("tokenizer*.json", "vocab.*", "merges.txt", "special_tokens_map.json", "*.model")

UNLIMITED = int(1e30)  # what transformers writes for a tokenizer without a limit


@dataclass(frozen=True)
class Place:
    """The local folders of a model's config and weights (None where they are drawn) and of its tokenizer."""

    folder: Path | None
    tokenizer: Path | None

    def __str__(self) -> str:
        return str(self.folder or self.tokenizer or "no folder")


def place(spec: ModelSpec) -> Place:
    """The local folders of a model, downloaded if needed and possible. Raises InputError with what is missing."""
    folder = None if spec.is_drawn else _folder(spec)
    return Place(folder, (_tokenizer_folder(spec) or folder) if spec.reads_text else None)


def _folder(spec: ModelSpec) -> Path:
    if spec.path is not None:
        given = Path(spec.path).expanduser()
        if not given.is_dir():
            raise InputError(f"model.path={spec.path}: no such folder. Give a folder written by save_pretrained.")
        return _checked(given)
    if spec.name == "embedded":
        return _checked(EMBEDDED)
    if spec.hub is None:
        raise InputError(f"model={spec.name}: neither model.path nor model.hub is set.")
    from lrexp.models import hub

    found = hub.cached(spec.hub, spec.revision, spec.reads_text)
    if found is None or found.lacks:
        found = hub.download(spec.hub, spec.revision, spec.name, reads_text=spec.reads_text)
    return _checked(found.folder)


def config_place(spec: ModelSpec) -> Place:
    """Where the model's config is: of a model on the hub that alone is downloaded if needed. Raises InputError."""
    if spec.is_drawn or spec.path is not None or spec.hub is None:
        return Place(None if spec.is_drawn else _config_folder(spec), None)
    from lrexp.models import hub

    return Place(hub.config_folder(spec.hub, spec.revision, spec.name), None)


def _config_folder(spec: ModelSpec) -> Path:
    """The folder of a model that lies here; its weights may be missing."""
    if spec.path is None and spec.name == "embedded":
        return EMBEDDED
    if spec.path is None:
        raise InputError(f"model={spec.name}: neither model.path nor model.hub is set.")
    folder = Path(spec.path).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(f"model.path={spec.path}: no config.json there.")
    return folder


def _tokenizer_folder(spec: ModelSpec) -> Path | None:
    """The tokenizer's own folder, where it has one apart from the model's."""
    if spec.tokenizer_path is not None:
        given = Path(spec.tokenizer_path).expanduser()
        if not given.is_dir():
            raise InputError(f"model.tokenizer_path={spec.tokenizer_path}: no such folder.")
        return given
    if spec.tokenizer is None or not spec.is_drawn:  # a folder written by save_pretrained has the model's own
        return None
    if spec.tokenizer in TOKENIZERS:
        return TOKENIZERS[spec.tokenizer]
    from lrexp.models import hub

    if not hub.is_name(spec.tokenizer):
        raise InputError(
            f"model.tokenizer={spec.tokenizer}: is neither {' nor '.join(TOKENIZERS)} nor a name on the hub; "
            "a folder goes into model.tokenizer_path"
        )
    return hub.tokenizer_folder(spec.tokenizer, spec.name)


def _checked(folder: Path) -> Path:
    """The folder, if it holds a readable config and safetensors weights."""
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{folder}: no config.json there. A model's folder is one written by save_pretrained.")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{config}: not readable as JSON ({error.__class__.__name__}).") from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"{folder}: no *.safetensors there; lrexp loads no pickled weights. Convert them with save_pretrained."
        )
    for file in files:
        _check_safetensors(file)
    return folder


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):  # checks the header against the file's length
            pass
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: damaged or cut short ({first_line(error)}).") from error


def fingerprint(spec: ModelSpec, place: Place) -> str:
    """A hash of the model's weights, config and tokenizer by content, not by path."""
    digest = hashlib.sha256()
    if place.folder is None:
        about = [spec.architecture, {key: spec.config[key] for key in sorted(spec.config)}]
        digest.update(json.dumps(about).encode() + b"\0")
    else:
        _update(digest, place.folder, ("*.safetensors", "config.json", *TOKENIZER_FILES))
    if place.tokenizer not in (None, place.folder):
        _update(digest, place.tokenizer, TOKENIZER_FILES)
    return digest.hexdigest()


def _update(digest: Any, folder: Path | None, patterns: tuple[str, ...]) -> None:
    assert folder is not None
    for file in sorted({f for pattern in patterns for f in folder.glob(pattern)}):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())


def tokenizer(place: Place) -> Any:
    """The model's fast tokenizer; None for a model that reads no text. Raises InputError if the folder has none.

    A tokenizer's limit on the length is that of the model it was made for, so it is lifted where the weights are drawn.
    """
    if place.tokenizer is None:
        return None
    from transformers import AutoTokenizer

    quiet()
    limit = {"model_max_length": UNLIMITED} if place.folder is None else {}
    try:
        return AutoTokenizer.from_pretrained(place.tokenizer, trust_remote_code=False, local_files_only=True, **limit)
    except Exception as error:
        raise InputError(f"{place.tokenizer}: no tokenizer could be read there ({first_line(error)}).") from error


def quantisation(place: Place) -> str | None:
    """How the weights in the folder are stored in fewer bits (gptq, bitsandbytes, ...); None where they are not."""
    file = None if place.folder is None else place.folder / "config.json"
    try:
        found = None if file is None else json.loads(file.read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return None  # whoever builds the model says what is wrong with it
    return str(found.get("quant_method", "in fewer bits")) if isinstance(found, dict) else None


def quiet() -> None:
    """Keeps transformers from reporting what is expected (a new head) and from drawing bars, but for LREXP_DEBUG=1.

    Where torchao is installed transformers imports it, and it speaks of kernels that it does not find.
    """
    from transformers.utils import logging

    if os.environ.get("LREXP_DEBUG") != "1":
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        for name in ("torchao", "torch.utils._pytree"):
            getLogger(name).setLevel(ERROR)


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
