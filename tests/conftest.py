"""The tiny model, data and runs of the laws, for every test."""

from __future__ import annotations

from lrexp.laws.tiny import Runner, merged, own_cache, run, sentences, session, settings, tiny, tiny_data, tiny_model

__all__ = [
    "Runner", "merged", "own_cache", "run", "sentences", "session", "settings", "tiny", "tiny_data", "tiny_model",
]  # fmt: skip
