"""Claims: the shipped ones are whole and compose, strangers' files run no code."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrexp.cli import main
from lrexp.commands.words import compose_all
from lrexp.spec import claim as claims
from lrexp.spec.errors import InputError
from lrexp.spec.tuning import split

WHOLE = """\
name: mine
paper: arXiv 2106.09685
where: table 1
claim: one is better
scaled: much
setting: [training.max_steps=1]
sides: {one: [method=lora], two: [method=full]}
checks: [{metric: accuracy, first: one, second: two, relation: better}]
"""


@pytest.mark.parametrize("name", claims.names())
def test_every_shipped_claim_composes(name: str) -> None:
    claim = claims.read(name)
    assert claim.name == name and claim.paper.startswith("arXiv ")
    for side in claim.sides:
        specs, _ = compose_all(split(claim.words(side))[1])
        assert len(specs) == claim.seeds and {spec.experiment for spec, _ in specs} == {None}


def test_there_are_eight_at_least() -> None:
    assert len(claims.names()) >= 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("relation: better", "relation: nicer"), "nicer"),
        (("second: two", "second: three"), "three is no side; they are one, two"),
        (("relation: better", "relation: equal"), "margin is 0"),
        (("where: table 1", "wear: table 1"), "wear"),
        (("name: mine", "name: mine\nseeds: 2"), "seeds is 2"),
        (("scaled: much", "scaled: {_target_: os.system}"), "_target_"),
    ],
)
def test_what_is_no_claim_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    place = tmp_path / "mine.yaml"
    place.write_text(WHOLE)
    assert claims.read(str(place)).words("one")[-1] == "seed=1,2,3,4,5"
    place.write_text(WHOLE.replace(*change))
    with pytest.raises(InputError, match=message):
        claims.read(str(place))


def test_the_command_names_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replicate", "said_beats_dit"]) == 2
    assert "said_beats_did" in capsys.readouterr().err
    assert main(["replicate"]) == 2
    assert "which claim? Known: " in capsys.readouterr().err
    assert main(["replicate", "--list", "--format", "csv"]) == 0
    assert "galore_near_full" in capsys.readouterr().out
