"""Downloads what `lrexp train` with the same words would need: for the login node of an offline cluster.

    lrexp fetch model=roberta dataset=mrpc            weights, config, tokenizer and data into the local caches
    lrexp fetch model=minilm,bert dataset=mrpc,rte    all that a sweep needs
    lrexp fetch spec.yaml                             what a frozen spec needs

Prints what is where and its size; what is there already is found without a network. Weights are taken as safetensors
only. Data are read through and, up to 200 MB of them, encoded for the model into lrexp's own cache; streamed data
(dataset=c4) are downloaded and encoded as far as the run of these words trains on them.

Options:
    --format rich|md|csv|json         how the table is printed (default rich)
    --config-dir DIR                  own choices beside lrexp's (docs/configs.md); as often as needed
    --help                            this text

HF_HOME (or HF_HUB_CACHE, HF_DATASETS_CACHE) and LREXP_CACHE say where the caches are: set them alike on both machines.
Ends with 2 where something is neither there nor to be had.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.commands import train
from lrexp.commands.options import Parser
from lrexp.report import quantity
from lrexp.report.render import render
from lrexp.spec import sweep
from lrexp.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from lrexp.models.model_spec import ModelSpec

COLUMNS = ("what", "state", "size", "place")
MODEL_KEYS = ("name", "path", "hub", "revision", "tokenizer", "tokenizer_path")  # what decides what is fetched of one
ENCODED_UP_TO = 200_000_000  # bytes of data: some two minutes of one core
Row = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Fetches and prints. Raises InputError, after the table of what is there, for what cannot be had."""
    parser = Parser("fetch")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    specs = _specs(options.words)
    rows: list[Row] = []
    try:
        for row in _fetched(specs):
            if row not in rows:
                rows.append(row)
    finally:
        if rows:
            _print(rows, options.format)
    return 0


def _specs(words: list[str]) -> list[RunSpec]:
    """The spec of each run that the words ask for."""
    files = [word for word in words if "=" not in word and word != sweep.PART]
    return [train.read([*files, *run])[0] for run in sweep.expand(word for word in words if word not in files)]


def _fetched(specs: Iterable[RunSpec]) -> Iterator[Row]:
    """A row for each model, each data set and what is encoded of one for the other, fetched by the time it comes."""
    from lrexp.models import build, model_spec
    from lrexp.tasks import build as tasks

    found: dict[str, Row] = {}
    for spec in specs:
        build.refuse_other_kind(model_spec.read(spec.model), tasks.output_kind(spec.dataset))
        model = repr([spec.model.get(key) for key in MODEL_KEYS])
        data = repr(spec.dataset)
        pair = f"{model} {data} {spec.training.selection == 'best'} {_streamed_items(spec)}"
        if model not in found:
            yield found.setdefault(model, _model(spec.model))
        if data not in found:
            yield found.setdefault(data, _data(spec.dataset))
        if pair not in found:
            yield found.setdefault(pair, _encoded(spec, found[data]))


def _model(section: dict[str, Any]) -> Row:
    """The model, checked as a run checks it."""
    from lrexp.models import hub, load, model_spec

    model = model_spec.read(section)
    state = "in the package" if model.path is None else "local"
    if model.is_drawn:
        state = _tokenizer_state(model)
    elif model.path is None and model.hub is not None:
        there, state = hub.cached(model.hub, model.revision, model.reads_text), "cached"
        if there is None or there.lacks:
            tell = partial(_say, f"model={model.name}")
            hub.download(model.hub, model.revision, model.name, tell, model.reads_text)
            state = "downloaded"
    place = load.place(model)
    folder = place.folder or place.tokenizer
    what = f"tokenizer of {model.name}" if model.is_drawn and model.reads_text else f"model={model.name}"
    return _row(what, state, hub.size(folder) if folder else None, folder)


def _tokenizer_state(model: ModelSpec) -> str:
    """How the tokenizer comes here, which is all that is needed of a model whose weights are drawn."""
    from lrexp.models import hub, load

    if model.tokenizer_path is not None:
        return "local"
    if model.tokenizer is None:
        return "needs no download"
    if model.tokenizer in load.TOKENIZERS:
        return "in the package"
    return "cached" if hub.is_name(model.tokenizer) and hub.cached_tokenizer(model.tokenizer) else "downloaded"


def _data(section: dict[str, Any]) -> Row:
    """The data set; its rows are read when they are encoded."""
    from lrexp.models.hub import size
    from lrexp.tasks import build
    from lrexp.tasks.sources import hub_cache

    data = build.check(section)
    what = f"dataset={data.name}"
    if data.path is not None:
        build.fingerprint(section)  # raises for a path with nothing in it
        place = Path(data.path).expanduser()
        return _row(what, "local", size(place) if place.is_dir() else place.stat().st_size, place)
    if build.is_streamed(section):
        return _row(what, "fetched with its tokens")
    if getattr(data, "hub", None) is None:  # not every kind of data is on the hub
        build.fingerprint(section)
        return _row(what, "needs no download")
    from lrexp.tasks.sources.hub import hub_tables

    state = "cached" if hub_cache.prepared(data.hub, data.hub_config) else "downloaded"
    hub_tables(data.hub, data.hub_config, data.name)
    if getattr(data, "test_hub", None) and not data.test_path:  # evaluated on another data set
        hub_tables(data.test_hub, data.test_hub_config, data.name)
    folder = hub_cache.prepared(data.hub, data.hub_config)
    return _row(what, state, size(folder) if folder else None, folder)


def _encoded(spec: RunSpec, data: Row) -> Row:
    """The rows as tokens, in lrexp's own cache; images are read through alone."""
    from lrexp.models import load, model_spec
    from lrexp.spec.places import cache_folder
    from lrexp.tasks import build
    from lrexp.tasks.items import Items

    model = model_spec.read(spec.model)
    name = spec.dataset["name"]
    what = f"tokens of {name} for {spec.model['name']}" if model.reads_text else f"rows of {name}"
    if (data["size"] or 0) > ENCODED_UP_TO:
        return _row(what, "left to the first run")
    if not model.reads_text:
        build.build(spec.dataset, None, spec.seed)
        return _row(what, "read")
    cache = cache_folder()
    if cache is None:
        return _row(what, "no cache to write to")
    before = set(cache.glob("*.encoded"))
    best = spec.training.selection == "best"
    place = load.place(model)
    count = _streamed_items(spec)
    task = build.build(spec.dataset, load.tokenizer(place), spec.seed, cache, best, count)
    if count is not None and isinstance(items := task.splits["train"].items, Items):
        items.read_through()
    made = set(cache.glob("*.encoded")) - before
    return _row(what, "encoded" if made else "cached", sum(file.stat().st_size for file in made) or None, cache)


def _streamed_items(spec: RunSpec) -> int | None:
    """How far streamed data are read; None for others."""
    from lrexp.tasks import build

    if not build.is_streamed(spec.dataset):
        return None
    from lrexp.train import streamed_items

    return streamed_items(spec)


def _row(what: str, state: str, size: int | None = None, place: Path | None = None) -> Row:
    return {"what": what, "state": state, "size": size, "place": None if place is None else str(place)}


def _say(what: str, size: int) -> None:
    """What takes its time, to those who wait."""
    print(f"downloading {what}, {quantity.memory(size)}", file=sys.stderr, flush=True)


def _print(rows: list[Row], format: str) -> None:
    if format in ("rich", "md"):
        rows = [{**row, "size": quantity.memory(row["size"])} for row in rows]
    render(COLUMNS, rows, format)
