"""lm-evaluation-harness's own files: `results_<time>.json` and the `samples_<task>_<time>.jsonl` beside it.

lm-eval writes the latter with `--log_samples`. Taken are samples of multiple choice: the loglikelihoods of all choices,
from which our metrics are worked out anew. The question and its choices are read from the document, whose columns have
other names in every data set; the names that are known stand below. Choices that no column holds are the continuations.
Samples that were generated, or are a single text, have no choices to match and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bench.errors import DataError
from bench.imports import Answer, Recording, Remote
from bench.imports.archive import Member, members_sha256, read_members
from bench.tasks.rows import parse_json_lines
from bench.tasks.source import LABELS

TITLE = "lm-evaluation-harness's results and logged samples"
TASK: str | None = None
REMOTE: Remote | None = None

_QUESTIONS = ("question", "question_stem", "query", "goal", "ctx", "premise", "sentence", "input")
_CHOICES = ("choices", "endings", "options")
_COLUMNS = (("A", "B", "C", "D"), ("sol1", "sol2"), ("choice1", "choice2"), ("option1", "option2"))


def read(path: Path) -> list[Recording]:
    """Read the files of a folder or an archive; a recording for each results file, scoring and number of shots."""
    samples = {member.name: member for member in read_members(path, ".jsonl")}
    found: list[Recording] = []
    for results in read_members(path, ".json"):
        place = PurePosixPath(results.name)
        if place.name.startswith("results_"):
            time = place.stem.removeprefix("results_")
            beside = [
                member
                for name, member in samples.items()
                if PurePosixPath(name).parent == place.parent and name.endswith(f"_{time}.jsonl")
            ]
            found += _recordings(results, beside, time)
    if not found:
        raise DataError(
            f"{path}: holds no results_*.json with multiple-choice samples beside it; lm-eval writes them with "
            "--output_path and --log_samples"
        )
    return found


def _recordings(results: Member, samples: list[Member], time: str) -> Iterator[Recording]:
    try:
        info = json.loads(results.text())
        shots, model = info["n-shot"], str(info["model_name"])
    except (ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{results.name}: is not a results file of lm-eval: {problem!r}") from None
    groups: dict[tuple[str, int | None], list[Answer]] = {}
    for member in samples:
        task = PurePosixPath(member.name).name.removeprefix("samples_").removesuffix(f"_{time}.jsonl")
        for scoring, answer in _answers(member):
            groups.setdefault((scoring, shots.get(task)), []).append(answer)
    origin = {
        "source": f"lm-eval {info.get('lm_eval_version', '')}, {PurePosixPath(results.name).name}",
        "licence": "not recorded",
        "settings": _settings(info),
        "sha256": members_sha256([results, *samples]),
    }
    for (scoring, num_fewshot), answers in groups.items():
        yield Recording(model, tuple(answers), scoring, num_fewshot, origin, lane="likelihood")


def _settings(info: Mapping[str, Any]) -> str:
    """How the model was run, in words."""
    config = info.get("config") or {}
    said = [f"model {config.get('model')}", f"dtype {config.get('model_dtype', 'not recorded')}"]
    said.append("chat template" if info.get("chat_template") else "no chat template")
    if config.get("limit"):
        said.append(f"limit {config['limit']}")
    return ", ".join(said)


def _answers(member: Member) -> Iterator[tuple[str, Answer]]:
    """Each multiple-choice sample's scoring and answer."""
    for number, row in enumerate(parse_json_lines(member.name, member.text()), 1):
        where = f"{member.name} row {number}"
        try:
            pairs, resps, document = _pairs(row["arguments"]), row["filtered_resps"], row["doc"]
            if len(pairs) < 2 or not all(isinstance(resp, list) and len(resp) == 2 for resp in resps):
                continue
            values = tuple(float(value) for value, _ in resps)
            is_greedy = tuple(str(flag) == "True" for _, flag in resps)
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"{where}: is not a sample of lm-eval: {problem!r}") from None
        if len(values) != len(pairs):
            raise DataError(f"{where}: {len(pairs)} requests have {len(values)} answers")
        texts = [continuation.strip() for _, continuation in pairs]
        is_letters = texts == list(LABELS[: len(texts)])
        yield (
            "letter" if is_letters else "cloze",
            Answer(
                where,
                _question(where, document),
                _choices(where, document, texts, is_letters=is_letters),
                subject=document["subject"] if isinstance(document.get("subject"), str) else None,
                loglikelihoods=values,
                is_greedy=is_greedy,
                prompt_hash=str(row.get("prompt_hash", "")),
            ),
        )


def _pairs(arguments: Any) -> list[tuple[str, str]]:
    """(context, continuation) of each request that has both; older versions list them, newer ones name them."""
    if isinstance(arguments, Mapping):
        arguments = [[one[key] for key in sorted(one)] for one in arguments.values()]
    return [(one[0], one[1]) for one in arguments if len(one) == 2 and isinstance(one[1], str)]


def _question(where: str, document: Mapping[str, Any]) -> str:
    for name in _QUESTIONS:
        if isinstance(text := document.get(name), str):
            return text
    raise DataError(f"{where}: its document has none of the columns {', '.join(_QUESTIONS)} to know the question by")


def _choices(where: str, document: Mapping[str, Any], texts: list[str], *, is_letters: bool) -> tuple[str, ...]:
    """The choices' texts: a column's, several columns', or the continuations where these are texts."""
    for name in _CHOICES:
        values = document.get(name)
        values = values.get("text") if isinstance(values, Mapping) else values
        if isinstance(values, list) and len(values) == len(texts):
            return tuple(map(str, values))
    for names in _COLUMNS:
        if len(texts) == len(names) and all(isinstance(document.get(name), str) for name in names):
            return tuple(document[name] for name in names)
    if is_letters:
        raise DataError(f"{where}: its document has no column with the choices' texts ({', '.join(_CHOICES)}, A to D)")
    return tuple(texts)
