"""Instructions and questions from the dataset section of a run: read, put into templates, encoded and split."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.spec.convert import from_mapping
from lrexp.spec.errors import InputError
from lrexp.tasks import answers
from lrexp.tasks.instruction import InstructionData
from lrexp.tasks.sources import instructions
from lrexp.tasks.template import unescaped
from lrexp.tasks.tokenizer import check_tokenizer

if TYPE_CHECKING:
    import numpy as np

    from lrexp.tasks.base import Task
    from lrexp.tasks.encode import Encoded, Encodings
    from lrexp.tasks.instruction_encode import Texts
    from lrexp.tasks.splits import Roles

_FORMAT = 1  # raised whenever the same rows are encoded in another way
_ENCODED = (  # keys that decide what is encoded
    "prompt", "prompt_if_empty", "completion", "test_prompt", "test_completion", "completion_only_loss", "max_length",
    "truncation", "overlap",
)  # fmt: skip

_ALL_SHARED = "{}: all {} rows stand in another split too (dataset.overlap={})"


def check(dataset: Mapping[str, Any]) -> InstructionData:
    """The section's types and ranges; reads nothing. Raises InputError."""
    return from_mapping(InstructionData, dataset, "dataset")


def fingerprint(dataset: Mapping[str, Any]) -> str:
    """Hash of the data's content, wherever it lies. Raises InputError where they cannot be found or read."""
    return instructions.fingerprint(check(dataset))


def build(
    dataset: Mapping[str, Any], tokenizer: Any, seed: int, cache: Path | None = None, hold_out_selection: bool = False
) -> Task:
    """The task of a dataset section for one tokenizer; see `lrexp.tasks.build.build`.

    The model writes for the reported split and, if it is selected on, the selection split.
    """
    import numpy as np

    from lrexp.tasks import splits
    from lrexp.tasks.base import Split
    from lrexp.tasks.instruction_encode import Asked
    from lrexp.tasks.instruction_task import Instruction

    data = check(dataset)
    check_tokenizer(tokenizer, data, "eos_token")
    content = fingerprint(dataset)
    there = instructions.names(data)
    roles = splits.roles(there, hold_out_selection)
    asked = [roles.reported] if data.generates else []
    if data.generates and hold_out_selection and roles.selection:
        asked.append(roles.selection)
    origin = {name: name if name in there else "train" for name in asked}  # where the rows of each come from
    columns = instructions.read(data, origin.values())
    encodings = _encodings(columns, data, tokenizer, content, cache)
    trained = encodings.splits["train"].rows
    if data.few_shot >= len(trained):
        raise InputError(f"dataset.few_shot is {data.few_shot}, but train has {len(trained)} rows")
    examples = trained[: data.few_shot]
    keys = _contents(columns["train"], data, "train") if roles.held_out else []
    parts = _held_out(encodings, data, roles, seed, examples, keys)
    items: dict[str, Any] = dict(parts)
    gold: list[str] = []
    shown = _examples(columns["train"], examples, data)
    for name in asked:
        prompts, right = _questions(parts[name], origin[name], columns, shown, data, tokenizer)
        items[name] = Asked(parts[name], prompts, np.arange(len(right)) + len(gold))
        gold += right
    found = {name: Split(items[name], part.lengths) for name, part in parts.items()}
    task = Instruction(data, found, tokenizer, tuple(gold))
    task.reported, task.selection, task.fingerprint = roles.reported, roles.selection, content
    return task


def _encodings(
    columns: Mapping[str, instructions.Columns], data: InstructionData, tokenizer: Any, content: str, cache: Path | None
) -> Encodings:
    """Neither limits, seeds nor what is generated decide the encoded sequences: all runs share them."""
    from lrexp.tasks import encode, instruction_encode

    def make() -> Encodings:
        kept = _without_overlap(columns, data)
        parts = {}
        for name, rows in kept.items():
            texts = _texts(columns[name], rows, name, data)
            parts[name] = instruction_encode.encode(texts, tokenizer, data, name == "train", name)
        return encode.Encodings(parts, {name: len(part) for name, part in parts.items()}, None)

    keys = {key: value for key, value in asdict(data).items() if key in _ENCODED}
    return encode.kept_or_made(cache, tokenizer, ["instruction", _FORMAT, content, keys], make)


def _without_overlap(columns: Mapping[str, instructions.Columns], data: InstructionData) -> dict[str, np.ndarray]:
    """The rows of each split that are used: what train and the others share is kept, or dropped from one of them."""
    import numpy as np

    keys = {name: _contents(split, data, name) for name, split in columns.items()}
    trained = set(keys["train"])
    others = {key for name, found in keys.items() if name != "train" for key in found}
    kept = {}
    for name, found in keys.items():
        dropped = _shared(name, trained, others, data)
        kept[name] = np.flatnonzero([key not in dropped for key in found]).astype(np.int64)
        if len(kept[name]) == 0:
            raise InputError(_ALL_SHARED.format(name, len(found), data.overlap))
    return kept


def _shared(split: str, trained: Set[str], evaluated: Set[str], data: InstructionData) -> Set[str]:
    """What a split must not have, by the questions that are trained on and that are evaluated."""
    if data.overlap == "drop_from_test" and split != "train":
        return trained
    return evaluated if data.overlap == "drop_from_train" and split == "train" else frozenset()


def _contents(columns: instructions.Columns, data: InstructionData, split: str) -> list[str]:
    """What each row asks, without its template: letters alike, blanks alike."""
    values = zip(*(columns[name] for name in data.prompt_of(split).columns), strict=True)
    return [" ".join(" ".join(row).casefold().split()) for row in values]


def _texts(columns: instructions.Columns, rows: np.ndarray, split: str, data: InstructionData) -> Texts:
    """Prompts and completions of these rows."""
    from lrexp.tasks.instruction_encode import Texts

    prompt, if_empty = data.prompt_of(split), data.prompt_if_empty_of(split)
    completion = data.completion_of(split)
    found = Texts([], [], rows)
    for i in rows:
        row = {name: values[i] for name, values in columns.items()}
        is_empty = if_empty is not None and not all(row[name].strip() for name in prompt.columns)
        chosen = if_empty if if_empty is not None and is_empty else prompt
        found.prompts.append(chosen.fill(row))
        found.completions.append(completion.fill(row))
    return found


def _held_out(
    encodings: Encodings, data: InstructionData, roles: Roles, seed: int, examples: np.ndarray, keys: list[str]
) -> dict[str, Encoded]:
    """The items of each split. The rows of train that are shown as examples are never held out of it.

    `keys` says what each row of train asks: questions that stand there more than once may fall to both sides, where
    `overlap` holds for what is held out too.
    """
    import numpy as np

    from lrexp.tasks import splits

    held_out = len(roles.held_out)
    pooled = {name: part.take(splits.pool(name, len(part), data, held_out)) for name, part in encodings.splits.items()}
    train = pooled["train"]
    is_example = np.isin(train.rows[train.index], examples)
    parts = splits.divided(pooled, len(encodings.splits["train"]), roles, data, seed, kept=is_example)
    if not roles.held_out:
        return parts
    asked = {name: [keys[row] for row in parts[name].rows[parts[name].index]] for name in ("train", *roles.held_out)}
    trained = set(asked["train"])
    others = {key for name in roles.held_out for key in asked[name]}
    for name, found in asked.items():
        dropped = _shared(name, trained, others, data)
        left = np.flatnonzero([key not in dropped for key in found])
        if len(left) == 0:
            raise InputError(_ALL_SHARED.format(name, len(found), data.overlap))
        parts[name] = parts[name].take(left)
    return parts


def _questions(
    part: Encoded, split: str, columns: Mapping[str, instructions.Columns], shown: str, data: InstructionData,
    tokenizer: Any,
) -> tuple[list[np.ndarray], list[str]]:  # fmt: skip
    """The prompts of the items as tokens, with the examples `shown` before them; and the right answers.

    `split` is where the items stand.
    """
    from lrexp.tasks.instruction_encode import prompt_tokens

    rows = part.rows[part.index]
    texts = _texts(columns[split], rows, split, data)
    prompts = prompt_tokens([shown + prompt for prompt in texts.prompts], tokenizer)
    return prompts, _gold(columns[split], rows, texts, split, data)


def _examples(train: instructions.Columns, rows: np.ndarray, data: InstructionData) -> str:
    """Rows of train, each as prompt and completion, for all prompts the same."""
    shown = _texts(train, rows, "train", data)
    pairs = zip(shown.prompts, shown.completions, strict=True)
    return "".join(prompt + completion + unescaped(data.few_shot_separator) for prompt, completion in pairs)


def _gold(
    columns: instructions.Columns, rows: np.ndarray, texts: Texts, split: str, data: InstructionData
) -> list[str]:
    """The right answer of each row. Raises InputError for a row in which there is none."""
    from lrexp.tasks.template import Template

    pattern = answers.compiled(data.answer_pattern or "")
    template = Template(data.answer) if data.answer else None
    found = []
    for row, completion in zip(rows, texts.completions, strict=True):
        text = template.fill({name: values[row] for name, values in columns.items()}) if template else completion
        answer = answers.extract(pattern, text, data.answer_match)
        if answer is None or (data.answer_tolerance is not None and answers.as_number(answer) is None):
            said = (
                f"'{answer}' is no number" if answer else f"dataset.answer_pattern finds no answer in '{text[:60]!r}'"
            )
            raise InputError(f"{split}: row {row + 1}: {said}")
        found.append(answer)
    return found
