"""lrexp: the experiment runner for low-rank training research.

The command line is the front door; `compose` and `run` are the same for a notebook. See docs/python.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.spec.errors import LrexpError

if TYPE_CHECKING:
    from lrexp.spec.run_spec import RunSpec

__version__ = "0.1.0"
__all__ = ["LrexpError", "compose", "run"]


def compose(overrides: Iterable[str] = (), config_dirs: Iterable[str | Path] = ()) -> RunSpec:
    """The resolved spec of `lrexp train OVERRIDES`, with own choices out of `config_dirs`.

    Raises LrexpError for whatever is wrong with them.
    """
    from lrexp.commands.words import composed
    from lrexp.spec import choices

    with choices.beside(config_dirs):
        spec, output_dir = composed(overrides)
    if output_dir is not None:
        raise LrexpError(f"output_dir={output_dir} is no part of a spec; give it to run()")
    return spec


def run(
    spec: RunSpec | str | Path | None = None,
    overrides: Iterable[str] = (),
    output_dir: str | Path | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Runs or resumes a spec and returns what result.json holds, with the run's folder as "folder".

    `spec` is a RunSpec, or a frozen spec file; None composes the overrides alone. A finished run is recognised and not
    run twice, unless `again`. Raises LrexpError: for wrong input, a failed run (its row is written), an interruption.
    """
    from lrexp.commands.words import overridden
    from lrexp.spec.run_spec import RunSpec
    from lrexp.train import train

    then = None
    if spec is None:
        spec, overrides = compose(overrides), ()
    elif not isinstance(spec, RunSpec):
        spec, then = RunSpec.read(spec)
    spec, inside = overridden(spec, overrides)
    if inside is not None:
        raise LrexpError(f"output_dir={inside} is no override here; give run(output_dir=...)")
    result, folder = train(spec, None if output_dir is None else str(output_dir), again, then)
    return {**result, "folder": str(folder)}
