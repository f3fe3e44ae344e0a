"""GLUE tasks (Wang et al. 2019) by name: from a local copy (`dataset.path`), or from the Hugging Face hub or its cache.

GLUE hides the labels of its test splits (-1 everywhere): such a split is left out and the validation split is reported.
MNLI's is the matched one.
"""

from lrexp.spec.errors import InputError
from lrexp.tasks.labelled import ClassificationData
from lrexp.tasks.sources import local
from lrexp.tasks.sources.files import SPLIT_NAMES, split_files
from lrexp.tasks.sources.table import Source, Table

_NAMES = {
    split: (*names, *(f"{name}_matched" for name in names if split != "train")) for split, names in SPLIT_NAMES.items()
}


def fingerprint(data: ClassificationData) -> str:
    """Hash of the bytes of the local copy, or of the rows that the hub gave."""
    if data.path:
        return local.fingerprint(data, _NAMES)
    from lrexp.tasks.sources import hub  # pyarrow: not needed for a local copy

    return hub.content_hash(hub.hub_tables(*_address(data), data.name))


def read(data: ClassificationData) -> Source:
    """Train, validation and a test split that has labels; every row checked.

    Raises:
        InputError: a damaged local copy; neither a cached copy nor a hub that answers.
    """
    from lrexp.tasks.sources.labels import labelled
    from lrexp.tasks.sources.reading import read_file

    if data.path:
        files = split_files(data.path, _NAMES)
        tables = {split: [read_file(path, data) for path in paths] for split, paths in files.items()}
    else:
        tables = _from_hub(data)
    if all(table.labels.dtype != object and (table.labels == -1).all() for table in tables.get("test", ())):
        tables.pop("test", None)
    return labelled(tables, data)


def _from_hub(data: ClassificationData) -> dict[str, list[Table]]:
    from lrexp.tasks.sources.hub import hub_tables
    from lrexp.tasks.sources.reading import from_arrow

    hub, config = _address(data)
    there = hub_tables(hub, config, data.name)
    chosen = {split: next((name for name in names if name in there), None) for split, names in _NAMES.items()}
    if not chosen["train"]:
        raise InputError(f"the data set {hub} {config or ''} has no train split, only {', '.join(there)}")
    return {
        split: [from_arrow(there[name], f"{hub} {config or ''} {name}", data)] for split, name in chosen.items() if name
    }


def _address(data: ClassificationData) -> tuple[str, str | None]:
    if not data.hub:
        raise InputError(f"dataset={data.name} needs dataset.path=FOLDER or dataset.hub=OWNER/NAME")
    return data.hub, data.hub_config
