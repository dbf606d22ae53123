"""MMLU as RouteLLM recorded it: whether two models were right, question by question.

One CSV file a subject, `mmlu_<subject>.csv`: `prompt` (the question, its choices as lines `A. ...`, and `Answer:`),
and a column for each model, True or False. Neither answers nor settings are recorded. Choices that read `None` or
`N/A` stand there as `nan`, so that their questions match none.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import DataError
from bench.imports import Answer, Recording, Remote
from bench.imports.archive import members_sha256, read_members
from bench.tasks.rows import parse_csv

TITLE = "MMLU by RouteLLM, 2 models, right or wrong only"
TASK: str | None = "mmlu"
REMOTE: Remote | None = None

ORIGIN = {
    "source": "lm-sys/RouteLLM@0b64fdafe049e596a3f5657c219329f24af24198 routellm/evals/mmlu/responses",
    "licence": "Apache-2.0",
    "settings": "not recorded: number of shots, prompt, and what was answered",
}
_PROMPT = re.compile(r"(.*)\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\nAnswer:", re.DOTALL)
_JUDGEMENTS = {"True": True, "False": False}


def read(path: Path) -> list[Recording]:
    """Read the CSV files of a folder or an archive."""
    members = read_members(path, ".csv")
    answers: dict[str, list[Answer]] = {}
    for member in members:
        for number, row in enumerate(parse_csv(member.name, member.text()), 1):
            where = f"{member.name} row {number}"
            if "prompt" not in row or len(row) < 2:
                raise DataError(
                    f"{member.name}: must have a column prompt and one for each model, not only {list(row)}"
                )
            parts = _PROMPT.fullmatch(row["prompt"])
            if parts is None:
                raise DataError(f"{where}: column 'prompt' must be a question, four choices A. to D. and 'Answer:'")
            question, *choices = parts.groups()
            for model in [name for name in row if name != "prompt"]:
                is_right = _JUDGEMENTS.get(row[model])
                if is_right is None:
                    raise DataError(f"{where}: column {model!r} must be True or False, not {row[model]!r}")
                subject = member.stem.removeprefix("mmlu_")
                answer = Answer(where, question, tuple(choices), subject, is_right=is_right)
                answers.setdefault(model, []).append(answer)
    origin = {**ORIGIN, "sha256": members_sha256(members)}
    return [Recording(model, tuple(own), "letter", None, origin) for model, own in answers.items()]
