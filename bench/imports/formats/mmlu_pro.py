"""MMLU-Pro as its authors recorded it: what models wrote, step by step, and the letter read from it.

JSON files of a list of objects: `question`, `options`, `category`, `pred` (a letter, or null where none could be read),
and `model_outputs` or `response`, what was written. A file is of one model, named in its own name
(`model_outputs_<model>_5shots.json`) or, where there is a file for each category, by its folder
(`gpt4o/law_result.json`). The authors' own accuracies replace missing answers by random ones; here they are no
answers, and wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bench.errors import DataError
from bench.imports import Answer, Recording, Remote
from bench.imports.archive import Member, members_sha256, read_members
from bench.tasks.source import LABELS

TITLE = "MMLU-Pro by its authors, one model a file or folder"
TASK: str | None = "mmlu_pro"
REMOTE: Remote | None = None

ORIGIN = {
    "source": "TIGER-AI-Lab/MMLU-Pro eval_results",
    "licence": "Apache-2.0",
    "settings": "the authors' prompt, chain of thought, answered by the letter that their expressions read",
}
_NAME = re.compile(r"model_outputs_(?P<model>.+)_(?P<shots>\d+)shots?")


def read(path: Path) -> list[Recording]:
    """Read the JSON files of a folder or an archive, or one of them."""
    by_model: dict[tuple[str, int | None], list[Member]] = {}
    for member in read_members(path, ".json"):
        if not member.stem.endswith("summary"):  # counts by category, which lie beside the answers
            by_model.setdefault(_model(path, member), []).append(member)
    return [
        Recording(
            model,
            tuple(answer for member in members for answer in _answers(member)),
            "cot",
            num_fewshot,
            {**ORIGIN, "sha256": members_sha256(members)},
        )
        for (model, num_fewshot), members in by_model.items()
    ]


def _model(path: Path, member: Member) -> tuple[str, int | None]:
    """The model of a file, and the number of shots where the name has it."""
    if named := _NAME.fullmatch(member.stem):
        return named["model"], int(named["shots"])
    folder = PurePosixPath(member.name).parent.name
    return folder or (path.name if path.is_dir() else member.stem), None


def _answers(member: Member) -> list[Answer]:
    try:
        rows = json.loads(member.text())
    except ValueError as problem:
        raise DataError(f"{member.name}: not valid JSON: {problem}") from None
    if not isinstance(rows, list):
        raise DataError(f"{member.name}: must be a list of answers")
    return [_answer(f"{member.name} row {number}", row) for number, row in enumerate(rows, 1)]


def _answer(where: str, row: Any) -> Answer:
    if not isinstance(row, Mapping) or not {"question", "options", "category", "pred"} <= set(row):
        raise DataError(f"{where}: must be an object with question, options, category and pred")
    question, options, subject, letter = row["question"], row["options"], row["category"], row["pred"]
    if not isinstance(options, list) or not all(isinstance(text, str) for text in (question, subject, *options)):
        raise DataError(f"{where}: question and category must be texts, options a list of texts")
    if letter is not None and letter not in LABELS[: len(options)]:
        letter = None  # a letter beyond the options is no answer to them
    text = row.get("model_outputs", row.get("response"))
    prediction = None if letter is None else LABELS.index(letter)
    return Answer(where, question, tuple(options), subject, "" if text is None else str(text), prediction)
