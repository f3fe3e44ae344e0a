from pathlib import Path

import pytest
import yaml

from lrexp.spec import yaml_text
from lrexp.spec.errors import InputError

VALUES = {
    "text": "a",
    "path": "/tmp/a b: c",
    "quoted": [
        "1e-3",
        "null",
        "yes",
        "0123",
        "",
        " x ",
        "a, b",
        "[q]",
        "# no",
        "it's",
        'say "x"',
        "line\nbreak",
        "\x07",
        "größe",
    ],
    "numbers": [0, -3, 0.1, 1e-5, 1e16, 1e300, 5e-324, 2.5],
    "flags": [True, False, None],
    "empty": {},
    "none": [],
    "nested": {"tuning": {"range": [1e-4, 2e-3], "map": {"layer.0": 4}}, "7": "key"},
}


def test_what_is_written_is_read_back_by_us_and_by_others() -> None:
    text = yaml_text.dump(VALUES)
    assert yaml_text.parse(text, "x") == VALUES
    assert yaml.safe_load(text) == VALUES
    assert yaml_text.dump(yaml_text.parse(text, "x")) == text


def test_a_person_s_numbers_are_numbers_and_words_are_words() -> None:
    found = yaml_text.parse("a: 1e-3\nb: yes\nc: 1:30\nd: 2020-01-01\ne: 0.5\nf: ~\ng: True\nh: '1'\n", "x")
    assert found == {"a": 1e-3, "b": "yes", "c": "1:30", "d": "2020-01-01", "e": 0.5, "f": None, "g": True, "h": "1"}


BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n# nothing\n", "empty"),
        (b"- a\n- b\n", "holds no keys"),
        (b"just text", "holds no keys"),
        (b"a: [1, 2", "damaged YAML in line"),
        (b"a: 1\n b: 2\n", "damaged YAML in line"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"PK\x03\x04\x00\x00", "damaged YAML"),
        (b"a: 1\na: 2\n", "line 2 has the key 'a' a second time"),
        (b"a: {b: 1, b: 2}\n", "a second time"),
        (b"? [a]\n: 1\n", "a key that is not a name"),
        (BOMB.encode(), "an anchor or an alias"),
        (b"a: !!python/object/apply:os.system ['echo']\n", "has the tag"),
        (b"a: !!str 1\n", "has the tag"),
        (b"a: 1\n---\nb: 2\n", "second document"),
        (b"a: " + b"[" * 5000, "nest"),
        (b"a: " + b"1" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_damaged_and_hostile_files_are_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        yaml_text.read_file(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not readable"):
        yaml_text.read_file(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder"):
        yaml_text.read_file(tmp_path)
