"""The command line of a script about sweeps: `--max-steps N`, and words for `lrexp train -m` in place of defaults."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def parser(description: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--max-steps", type=int, default=60)
    found.add_argument("overrides", nargs="*")
    return found


def overrides(options: argparse.Namespace, default: Mapping[str, str]) -> list[str]:
    given = {word.partition("=")[0]: word.partition("=")[2] for word in options.overrides}
    settings = {**default, "training.max_steps": str(options.max_steps), **given}
    return [f"{key}={value}" for key, value in settings.items()]
