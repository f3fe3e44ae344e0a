"""Instructions and questions: what is predicted, cut, held out, shown and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from lrexp.models.load import TOKENIZERS
from lrexp.spec.errors import InputError
from lrexp.tasks import build, fit
from lrexp.tasks.causal_lm import IGNORED
from lrexp.tasks.instruction_encode import Asked, Texts, encode, prompt_start
from tests.tasks.conftest import section as choice_section
from tests.tasks.conftest import write

Row = dict[str, str]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOKENIZERS["embedded"])


def sums(count: int, start: int = 0) -> list[Row]:
    return [
        {"question": f"What is {i} and {i + 1}?", "answer": f"Add them: {i}+{i + 1}.\n#### {2 * i + 1}"}
        for i in range(start, start + count)
    ]


def section(place: Path, **keys: Any) -> dict[str, Any]:
    usual = {"max_length": 64, "max_new_tokens": 4, "prompt": r"{question}\n"}
    return choice_section(place, name="gsm8k", **(usual | keys))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", sums(60))
    write(tmp_path / "test.jsonl", sums(9, 58))
    return tmp_path


def test_the_completion_and_the_end_are_predicted_after_the_prompt(tokenizer: Any, place: Path) -> None:
    task = build.build(section(place), tokenizer, 0)
    item = task.splits["train"].items[0]
    row = sums(60)[int(item["row"])]
    whole = f"{row['question']}\n{row['answer']}"
    assert tokenizer.decode(item["input_ids"]) == whole + tokenizer.eos_token
    targets = item["input_ids"][item["is_target"] == 1]
    assert tokenizer.decode(targets) == row["answer"] + tokenizer.eos_token
    assert item["bytes"][item["is_target"] == 1].sum() == len(row["answer"].encode())
    batch = task.collate([item])
    assert (batch["labels"] != IGNORED).sum() == len(targets) == task.targets(batch)
    assert task.tokens(batch) == len(item["input_ids"])
    both = build.build(section(place, completion_only_loss=False), tokenizer, 0)
    item = both.splits["train"].items[0]
    assert both.targets(both.collate([item])) == len(item["input_ids"]) - 1


def test_padding_changes_the_width_alone(tokenizer: Any, place: Path) -> None:
    short, full = (build.build(section(place, padding=how), tokenizer, 0) for how in ("longest", "max_length"))
    items = [short.splits["train"].items[i] for i in range(3)]
    one, other = short.collate(items), full.collate(items)
    width = one["input_ids"].shape[1]
    assert other["input_ids"].shape[1] == 64 > width
    for name in ("input_ids", "labels", "attention_mask"):
        assert (one[name] == other[name][:, :width]).all()
    assert not other["attention_mask"][:, width:].any() and (other["labels"][:, width:] == IGNORED).all()


@pytest.mark.parametrize(("truncation", "kept"), [("right", "start"), ("left", "end"), ("drop", None)])
def test_what_is_too_long(truncation: str, kept: str | None, tokenizer: Any, place: Path) -> None:
    data = build.check(section(place, truncation=truncation, max_length=12))
    texts = Texts(["a", "a much longer prompt " * 3], ["b c d", "e f g"], np.arange(2))
    found = encode(texts, tokenizer, data, True, "train")
    if kept != "end":  # cut on the right, the second row has no target left
        assert found.rows.tolist() == [0]
    else:
        assert found.lengths.tolist()[1] == 12
        assert tokenizer.decode(found[1]["input_ids"]).endswith("prompt e f g" + tokenizer.eos_token)
    assert len(encode(texts, tokenizer, data, False, "test")) == 2  # an evaluated row is never left out


def test_alpaca_has_another_prompt_where_there_is_no_input(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"instruction": "Say hi", "input": text, "output": "hi"} for text in ("", "to Ann") * 6]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    task = build.build(choice_section(tmp_path, name="instructions", max_length=256), tokenizer, 0)
    assert task.primary_metric == "perplexity" and task.metric_names == ("loss", "perplexity", "bits_per_byte")
    for item in task.splits["train"].items:
        text = tokenizer.decode(item["input_ids"])
        assert ("### Input:\nto Ann" in text) == bool(item["row"] % 2) == ("paired with an input" in text)


def test_only_what_is_reported_or_selected_on_is_answered(tokenizer: Any, place: Path) -> None:
    plain = build.build(section(place), tokenizer, 0)
    chosen = build.build(section(place), tokenizer, 0, hold_out_selection=True)
    assert {n for n, s in plain.splits.items() if isinstance(s.items, Asked)} == {"test"}
    assert {n for n, s in chosen.splits.items() if isinstance(s.items, Asked)} == {"test", "validation"}
    rows = sums(60)
    for name, source in (("test", sums(9, 58)), ("validation", rows)):
        for item in chosen.splits[name].items:
            assert f"#### {chosen.gold[item['answer']]}" in source[int(item["row"])]["answer"]
            assert tokenizer.decode(item["prompt_ids"]) == source[int(item["row"])]["question"] + "\n"
    quiet = build.build(section(place, max_new_tokens=None), tokenizer, 0)
    assert quiet.primary_metric == "perplexity" and "prompt_ids" not in quiet.collate([quiet.splits["test"].items[0]])


def test_examples_come_first_and_are_never_held_out(tokenizer: Any, place: Path) -> None:
    task = build.build(section(place, few_shot=2, validation_fraction=0.9), tokenizer, 3, hold_out_selection=True)
    shown = "".join(f"{row['question']}\n{row['answer']}\n\n" for row in sums(2))
    for name in ("test", "validation"):
        assert all(tokenizer.decode(item["prompt_ids"]).startswith(shown) for item in task.splits[name].items)
    assert {0, 1} <= {int(item["row"]) for item in task.splits["train"].items}
    with pytest.raises(InputError, match="few_shot is 61, but train has 60"):
        build.build(section(place, few_shot=61), tokenizer, 0)


@pytest.mark.parametrize(
    ("overlap", "train", "test"), [("keep", 60, 9), ("drop_from_test", 60, 7), ("drop_from_train", 58, 9)]
)
def test_questions_that_stand_in_train_too(overlap: str, train: int, test: int, tokenizer: Any, place: Path) -> None:
    lines = (place / "test.jsonl").read_text().replace("What is 58", "what  IS 58")
    (place / "test.jsonl").write_text(lines)
    task = build.build(section(place, overlap=overlap), tokenizer, 0)
    trained = len(task.splits["train"]) + len(task.splits["validation"])
    assert (trained, len(task.splits["test"])) == (train, test)


def test_examples_show_no_question_that_is_evaluated(tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", sums(60))
    write(tmp_path / "test.jsonl", sums(9))  # train begins with them
    task = build.build(section(tmp_path, overlap="drop_from_train", few_shot=2), tokenizer, 0)
    shown = "".join(f"{row['question']}\n{row['answer']}\n\n" for row in sums(2, 9))
    assert all(tokenizer.decode(item["prompt_ids"]).startswith(shown) for item in task.splits["test"].items)


@pytest.mark.parametrize("overlap", ["keep", "drop_from_test", "drop_from_train"])
def test_what_is_held_out_shares_no_question_with_train(overlap: str, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", sums(40) + sums(20))
    write(tmp_path / "test.jsonl", sums(5, 70))
    task = build.build(section(tmp_path, overlap=overlap), tokenizer, 0)
    asked = {name: {int(item["row"]) % 40 for item in task.splits[name].items} for name in ("train", "validation")}
    assert asked["validation"] and bool(asked["train"] & asked["validation"]) == (overlap == "keep")


def test_the_shipped_math_questions(tokenizer: Any, tmp_path: Path) -> None:
    """Answers in a column of their own, numbers that may differ a little, questions of train left out of the test."""
    rows = [
        {"instruction": f"Halve {i}.", "input": "", "output": f"Half of {i} is {i / 2}.", "answer": str(i / 2)}
        for i in range(12)
    ]
    train, test = rows[:10], rows[7:]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "test.json").write_text(json.dumps(test))
    task = build.build(choice_section(tmp_path, name="llm_adapters_math", max_length=256), tokenizer, 0)
    assert task.gold == ("5.0", "5.5") and task.primary_metric == "exact_match"
    assert sum(len(task.splits[name]) for name in ("train", "validation")) == 10 and len(task.splits["test"]) == 2


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_nothing_in_a_column_of_the_prompt_is_an_empty_text(ending: str, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"instruction": "Say hi", "input": text, "output": "hi"} for text in (None, "to Ann") * 6]
    place = tmp_path / f"train.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), place)
    elif ending == "json":
        place.write_text(json.dumps(rows))
    else:
        place.write_text("instruction,input,output\n" + "Say hi,,hi\nSay hi,to Ann,hi\n" * 6)
    task = build.build(choice_section(place, name="instructions", max_length=256), tokenizer, 0)
    for item in task.splits["train"].items:
        assert ("to Ann" in tokenizer.decode(item["input_ids"])) == bool(item["row"] % 2)


def test_a_test_from_elsewhere_with_columns_of_its_own(tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "own.csv", [{"query": r["question"], "response": r["answer"]} for r in sums(20)])
    write(tmp_path / "test.parquet", sums(5, 30))
    own, keys = tmp_path / "own.csv", {"max_length": 64, "test_prompt": r"{question}\nStep by step."}
    test = str(tmp_path / "test.parquet")
    task = build.build(choice_section(own, name="metamath", test_path=test, **keys), tokenizer, 0)
    assert task.reported == "test" and task.gold == ("61", "63", "65", "67", "69")
    assert tokenizer.decode(task.splits["test"].items[0]["prompt_ids"]).endswith("Step by step.")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"^dataset\.test_path: .*other holds no split"):
        build.build(choice_section(own, name="metamath", test_path=str(tmp_path / "other"), **keys), tokenizer, 0)


def test_the_first_token_is_the_tokenizer_s_own() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    assert prompt_start(plain) == []
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert prompt_start(PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")) == [0]


def test_a_model_with_too_few_places_for_the_answers_is_refused(tokenizer: Any, place: Path) -> None:
    from types import SimpleNamespace

    task = build.build(section(place, max_new_tokens=60), tokenizer, 0)
    longest = max(len(item["prompt_ids"]) for item in task.splits["test"].items)
    fit.refuse_unfit(task, SimpleNamespace(max_position_embeddings=longest + 60), "mine")
    words = rf"max_new_tokens is 60 after prompts of up to {longest} tokens, but model=mine"
    with pytest.raises(InputError, match=words):
        fit.refuse_unfit(task, SimpleNamespace(max_position_embeddings=longest + 59), "mine")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"answer_pattern": "(a+)+"}, "dataset.answer_pattern '(a+)+' has a repeat within a repeat"),
        ({"answer_pattern": None}, "max_new_tokens is set without answer_pattern"),
        ({"answer_pattern": "#### ([A-Z]+)"}, "test: row 1: dataset.answer_pattern finds no answer"),
        ({"answer_pattern": "(Add)"}, "test: row 1: 'Add' is no number"),
        ({"prompt": "{question"}, "dataset.prompt has a single {"),
        ({"prompt": "no column"}, "names a column of the data as {column}"),
        ({"prompt": "{querstion}"}, "dataset.prompt says which is read"),
        ({"answer": "{gold}"}, "dataset.answer says which is read"),
        ({"max_new_tokens": None, "primary_metric": "exact_match"}, "nothing is generated"),
        ({"answer_tolerance": -1.0}, "it is at least 0"),
        ({"max_new_tokens": None, "few_shot": 2}, "nothing is answered: set dataset.max_new_tokens, or 0"),
        ({"max_length": 4, "prompt": "a long prompt {question}"}, "no row has a token to predict"),
        ({"path": None, "hub": None}, "needs dataset.path=FILE or FOLDER"),
    ],
)
def test_bad_sections_are_said_in_one_line(keys: dict[str, Any], words: str, tokenizer: Any, place: Path) -> None:
    with pytest.raises(InputError) as error:
        build.build({**section(place), **keys}, tokenizer, 0)
    assert words in str(error.value) and "\n" not in str(error.value)
