"""MMLU as HELM asked it: what ten models wrote, published with MMLU-Redux.

One CSV file a subject: `question`, `choices` (a Python list), and a column for each model with the beginning of what it
wrote. Each question stands once; those that MMLU repeats are left out. HELM asks for a single token after five
shots, and an answer is right if that token is the right letter; whatever else stands there is no answer.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from bench.errors import DataError
from bench.imports import Answer, Recording, Remote
from bench.imports.archive import Member, members_sha256, read_members
from bench.tasks.rows import parse_csv
from bench.tasks.source import LABELS
from bench.tasks.task import load_task

TITLE = "MMLU by HELM, 10 models, 5-shot (MMLU-Redux)"
TASK: str | None = "mmlu"

_REPOSITORY, _COMMIT, _FOLDER = (
    "aryopg/mmlu-redux",
    "4563cfa79b659d76716e5b6019f46bba85fa02db",
    "outputs/original_helm_combined",
)
REMOTE: Remote | None = Remote(
    url=f"https://raw.githubusercontent.com/{_REPOSITORY}/{_COMMIT}/{_FOLDER}",
    names=tuple(f"{subject}.csv" for own in load_task("mmlu").categories.values() for subject in own),
    suffix=".csv",
    sha256="77bff64a64cc12c6457ca42e13e053a2c06a34ee1a928d219e57370b16354771",
)
ORIGIN = {
    "source": f"{_REPOSITORY}@{_COMMIT} {_FOLDER}",
    "licence": "CC-BY-4.0",
    "settings": "HELM's prompt, 5-shot, answered by the letter that is generated first",
}


def read(path: Path) -> list[Recording]:
    """Read the CSV files of a folder or an archive."""
    members = read_members(path, ".csv")
    answers: dict[str, list[Answer]] = {}
    for member in members:
        for number, row in enumerate(parse_csv(member.name, member.text()), 1):
            for model, answer in _answers(member, number, row):
                answers.setdefault(model, []).append(answer)
    origin = {**ORIGIN, "sha256": members_sha256(members)}
    return [Recording(model, tuple(own), "letter", 5, origin, notes=_notes(own)) for model, own in answers.items()]


def _answers(member: Member, number: int, row: Mapping[str, str]) -> list[tuple[str, Answer]]:
    where = f"{member.name} row {number}"
    if not {"question", "choices"} < set(row):
        raise DataError(
            f"{member.name}: must have columns question, choices and one for each model, not only {list(row)}"
        )
    try:
        choices = ast.literal_eval(row["choices"])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        choices = None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{where}: column 'choices' must be a list of texts, not {row['choices'][:80]!r}")
    models = [name for name in row if name not in ("question", "choices")]
    return [(model, _answer(where, row, tuple(choices), model, member.stem)) for model in models]


def _answer(where: str, row: Mapping[str, str], choices: tuple[str, ...], model: str, subject: str) -> Answer:
    text = row[model]
    letters = LABELS[: len(choices)]
    letter = text.strip()
    prediction = letters.index(letter) if len(letter) == 1 and letter in letters else None
    is_cut = prediction is None and bool(letter)  # one token was asked for, and it is the start of something else
    return Answer(where, row["question"], choices, subject, text, prediction, is_cut=is_cut)


def _notes(answers: list[Answer]) -> tuple[str, ...]:
    num_empty = sum(answer.text == "" for answer in answers)
    if not num_empty:
        return ()
    return (
        f"{num_empty} completions are empty; the source does not say why, and counts them as wrong, as is done here",
    )
