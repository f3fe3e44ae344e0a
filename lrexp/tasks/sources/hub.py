"""Data sets of the Hugging Face hub as arrow tables: from the cache without a network, else without long waits."""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import pyarrow as pa

from lrexp.models.hub import PROBE_SECONDS, ask, why
from lrexp.spec.errors import InputError

_CHUNK = 8192  # rows hashed at once


@cache
def hub_tables(hub: str, config: str | None, name: str) -> dict[str, pa.Table]:
    """All splits of a data set; `name` is the choice that messages name.

    Raises:
        InputError: not in the cache, and the hub does not answer or does not have it.
    """
    with _quiet():
        try:
            return _load(hub, config, offline=True)
        except Exception as error:  # the library has no type for "not in the cache"
            missing = error
        if _is_offline():
            raise _not_there(hub, config, name, "HF_HUB_OFFLINE is set") from missing
        try:
            ask(lambda: _probe(hub), PROBE_SECONDS)  # the library itself would try again for half a minute
            return _load(hub, config, offline=False)
        except Exception as error:  # transport, hub and library errors have no common type; all mean: not to be had
            raise _not_there(hub, config, name, why(error)) from None


def content_hash(tables: Mapping[str, pa.Table]) -> str:
    """sha256 over splits, columns and values."""
    digest = hashlib.sha256()
    for split, table in sorted(tables.items()):
        for name in table.column_names:
            digest.update(f"{split}\0{name}\0{table.num_rows}\n".encode())
            for start in range(0, table.num_rows, _CHUNK):  # values, not buffers: the same under every version of Arrow
                digest.update(json.dumps(table.column(name).slice(start, _CHUNK).to_pylist()).encode())
    return digest.hexdigest()


def _is_offline() -> bool:
    from datasets import config as settings

    return bool(settings.HF_HUB_OFFLINE)  # by HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE or HF_DATASETS_OFFLINE


def _load(hub: str, config: str | None, offline: bool) -> dict[str, pa.Table]:
    import datasets
    from datasets import config as settings

    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = offline or before
    try:
        found = datasets.load_dataset(hub, config)
    finally:
        settings.HF_HUB_OFFLINE = before
    assert isinstance(found, datasets.DatasetDict)
    return {str(split): part.data.table for split, part in found.items()}


def _probe(hub: str) -> None:
    """One request, tried once."""
    from huggingface_hub import HfApi

    HfApi().dataset_info(hub, timeout=PROBE_SECONDS)


def _not_there(hub: str, config: str | None, name: str, reason: str) -> InputError:
    address = f"{hub} {config}" if config else hub
    return InputError(
        f"the data set {address} is not in the cache and cannot be fetched ({reason}): run "
        f"`lrexp fetch dataset={name}` with the model= of the run where there is a network, or dataset.path=FOLDER "
        "takes a local copy"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, log lines or progress bars of the libraries: what went wrong is said once, by us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "fsspec", "httpx", "httpx2")]
    levels = [logger.level for logger in loggers]
    had_bars = datasets.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()
