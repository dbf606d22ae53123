"""Answers of any origin, a JSON object a line; for what has no format of its own.

    {"question": "…", "choices": ["…", "…"], "prediction": "B"}

`question` and `choices` say which question it is; `subject` too, where the task has subjects. The answer is
`prediction` (a letter, an index from 0, or null for none) or, where only that is known, `correct` (true or false).
`completion` is what the model wrote. `model` names it; without, the file's name does. `error` stands for an answer
that failed and is not scored. The settings are not recorded, so say in the file's name what a reader must know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import DataError, one_of
from bench.imports import Answer, Recording, Remote
from bench.imports.archive import Member, members_sha256, read_members
from bench.tasks.rows import parse_json_lines
from bench.tasks.source import LABELS

TITLE = "any answers, one JSON object a line"
TASK: str | None = None
REMOTE: Remote | None = None

KEYS = ("question", "choices", "subject", "prediction", "correct", "completion", "model", "error")


def read(path: Path) -> list[Recording]:
    """Read one file, or those of a folder or an archive."""
    members = read_members(path, ".jsonl")
    answers: dict[str, list[Answer]] = {}
    for member in members:
        for number, row in enumerate(parse_json_lines(member.name, member.text()), 1):
            model = row.get("model", member.stem)
            if not isinstance(model, str) or not model:
                raise DataError(f"{member.name} row {number}: model must be a name, not {model!r}")
            answers.setdefault(model, []).append(_answer(member, number, row))
    origin = {
        "source": path.name,
        "licence": "not recorded",
        "settings": "not recorded",
        "sha256": members_sha256(members),
    }
    return [Recording(model, tuple(own), "unknown", None, origin) for model, own in answers.items()]


def _answer(member: Member, number: int, row: dict[str, Any]) -> Answer:
    where = f"{member.name} row {number}"
    if unknown := set(row) - set(KEYS):
        raise DataError(f"{where}: unknown key {min(unknown)!r}; {one_of(min(unknown), KEYS)}")
    if len({"prediction", "correct", "error"} & set(row)) != 1:
        raise DataError(f"{where}: must have exactly one of prediction, correct and error")
    question, choices = row.get("question"), row.get("choices")
    if not isinstance(question, str) or not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{where}: question must be a text and choices a list of texts")
    for key, kinds in {"subject": str, "completion": str, "error": str, "correct": bool}.items():
        if key in row and not isinstance(row[key], kinds):
            raise DataError(f"{where}: {key} must be {'true or false' if kinds is bool else 'a text'}")
    prediction = _index(where, row["prediction"], len(choices)) if row.get("prediction") is not None else None
    text = row.get("completion")
    if text is None and "prediction" in row:
        text = "" if prediction is None else LABELS[prediction]
    return Answer(
        where,
        question,
        tuple(choices),
        row.get("subject"),
        text,
        prediction,
        is_right=row.get("correct"),
        error=row.get("error"),
    )


def _index(where: str, value: object, num: int) -> int:
    """The index of a choice, given as such or as its letter."""
    letters = LABELS[:num]
    if isinstance(value, str) and len(value) == 1 and value in letters:
        return letters.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < num:
        return value
    raise DataError(f"{where}: prediction must be one of {', '.join(letters)}, or 0 to {num - 1}, not {value!r}")
