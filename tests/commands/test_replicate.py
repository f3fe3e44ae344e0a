"""A claim from its file to its verdict, and what a dry run leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrexp.cli import main
from lrexp.commands.words import compose_all
from lrexp.launch.job import jobs
from lrexp.spec import claim as claims
from lrexp.train import train


def claim(tiny: list[str], place: Path, *more: str) -> str:
    base = [word for word in tiny if not word.startswith(("training.learning_rate=", "training.max_steps="))]
    words = json.dumps([*base, "training.max_steps=2", *more])
    place.write_text(
        "name: mine\npaper: arXiv 2106.09685\nwhere: table 1\nclaim: fewer are trained\nscaled: much\nseeds: 3\n"
        f"setting: {words}\nsides: {{lora: [method=lora], full: [method=full]}}\n"
        "checks: [{metric: costs.trainable_parameters, first: lora, second: full, relation: less, margin: 0.5}]\n"
    )
    return str(place)


def test_a_claim_is_run_and_judged_once(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["replicate", claim(tiny, tmp_path / "mine.yaml"), "--jobs", "2"]
    found = claims.read(str(tmp_path / "mine.yaml"))
    specs = [spec for side in found.sides for spec, _ in compose_all(found.words(side))[0]]
    for job in jobs([(spec, "") for spec in specs[:-1]], "outputs/claims"):
        train(job.spec, str(job.folder))  # in this process, which is quicker; the last is left to the command
    assert main([*line, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["verdict"], row["pairs"]) for row in rows] == [("seen here", 3)]
    before = {p: p.stat().st_mtime_ns for p in Path("outputs").rglob("result.json")}
    assert len(before) == 6
    assert main([*line, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert {p: p.stat().st_mtime_ns for p in Path("outputs").rglob("result.json")} == before


def test_a_dry_run_starts_nothing(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tuned = claim(tiny, tmp_path / "tuned.yaml", "tune=learning_rate", "tune.trials=3")
    assert main(["replicate", tuned, "--dry-run", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6  # three rates of each side, at the first seed
    assert not Path("outputs").exists()
