"""Public per-question answers become runs: matched to our questions, scored by our metrics, in folders as any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import __version__
from bench.config import TaskSpec
from bench.errors import DataError, PlanError, one_of
from bench.imports import IMPORTED, Answer, Recording, load_format
from bench.imports.fetching import fetch_source
from bench.imports.matching import Matching, match_answers
from bench.metrics import score_sample, summarise
from bench.records import Completion, Loglikelihood, PromptedSample, Sample, Score
from bench.runs.folder import RunFolder
from bench.runs.names import identity, run_name
from bench.tasks.dataset import load_rows
from bench.tasks.prompts import build_prompts
from bench.tasks.source import LABELS
from bench.tasks.task import Task, load_task, task_names

_NUM_NAMED = 3  # answers left out, in a note; all are in run.json


@dataclass(frozen=True, slots=True)
class Imported:
    """A model's answers as a run.

    Attributes:
        path: its folder.
        matching: which answers went in, and which did not.
        num_samples: questions of the task.
    """

    path: Path
    matching: Matching
    num_samples: int


def import_runs(
    name: str, path: Path | None, out: Path, task: str | None = None, data_dir: str | None = None
) -> list[Imported]:
    """Make a run folder of each model that `path` has answers of; those made before are left as they are.

    Args:
        name: the format, see `bench.imports`.
        path: its files; None: fetch them, where the format knows from where.
        out: the folder of run folders.
        task: whose questions they are; None: the format's own.
        data_dir: the folder of the task's rows, instead of the task's own sources.

    Raises:
        InputError: unknown format or task, rows not at hand, files of another format, or not one answer matches.
    """
    source = load_format(name)
    task = task or source.TASK
    if task is None:
        raise PlanError(f"format {name} is of no task in particular; say which by --task ({', '.join(task_names())})")
    loaded = load_task(task)
    if path is None:
        if source.REMOTE is None:
            raise PlanError(f"format {name} does not know where its files are had; give their PATH")
        path = fetch_source(source.REMOTE)
    recordings = source.read(path)
    made, num_samples = [], 0
    targets: dict[TaskSpec, _Target] = {}  # nearly always one: the recordings of a source have equal settings
    for recording in recordings:
        spec = _spec(task, loaded, recording, data_dir)
        if spec not in targets:
            targets[spec] = _Target(loaded, spec)
        target = targets[spec]
        num_samples = len(target.samples)
        matching = match_answers(target.samples, recording.answers)
        if matching.pairs:
            made.append(Imported(_write(out, name, recording, matching, target), matching, num_samples))
    if not made:
        raise DataError(f"{path}: none of its questions is one of the {num_samples} of task {loaded.name}")
    return made


class _Target:
    """The task that answers are matched to."""

    def __init__(self, task: Task, spec: TaskSpec) -> None:
        self.task = task
        self.spec = spec
        self.dataset = load_rows(task, spec)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self.dataset.samples

    @cached_property
    def prompted(self) -> Mapping[str, PromptedSample]:
        """Each sample with its requests, which loglikelihoods are of."""
        built = build_prompts(self.task, self.spec.scoring, self.dataset, self.spec.num_fewshot or 0)
        return {item.sample.id: item for item in built}

    def score(self, sample: Sample, answer: Answer) -> Score:
        """What an answer is worth, by our own rules."""
        if answer.error is not None or not answer.loglikelihoods:
            return _score_choice(sample, answer)
        form = self.task.forms[self.spec.scoring]
        pairs = zip(answer.loglikelihoods, answer.is_greedy, strict=True)
        values = [Loglikelihood(value, is_greedy, 1) for value, is_greedy in pairs]
        score = score_sample(self.prompted[sample.id], values, metrics=form.metrics, delimiter=form.delimiter)
        return replace(score, prompt_hash=answer.prompt_hash)

    def describe(self, recording: Recording, num_samples: int) -> dict[str, Any]:
        """The part `task` of run.json. What is not recorded is left out."""
        metrics = self.metrics(recording)
        described = {
            "name": self.task.name,
            "version": self.task.version,
            "title": self.task.title,
            "licence": self.task.licence,
            "scoring": recording.scoring,
            "num_samples": num_samples,
            "num_available": len(self.samples),
            "headline": metrics[0],
            "data": {
                "origin": self.dataset.origin,
                "revision": self.dataset.revision,
                "sha256": self.dataset.checksum,
            },
        }
        return described if recording.num_fewshot is None else {**described, "num_fewshot": recording.num_fewshot}

    def metrics(self, recording: Recording) -> Sequence[str]:
        """What is reported, the headline metric first."""
        if recording.lane == "generate":
            return ("acc",)
        form = self.task.forms[self.spec.scoring]
        return tuple(dict.fromkeys((form.metric, *form.metrics)))


def _spec(name: str, task: Task, recording: Recording, data_dir: str | None) -> TaskSpec:
    """The task as a plan would name it: whole, and put as it was where our own prompts are needed, for likelihoods."""
    settings: dict[str, Any] = {"task": name}
    if recording.lane == "generate":
        settings["num_fewshot"] = 0  # the rows are needed, the shots are not: the source had its own prompts
    elif recording.num_fewshot is not None:
        settings["num_fewshot"] = recording.num_fewshot
    if data_dir is not None:
        settings["data_dir"] = data_dir
    if recording.scoring in task.forms:
        settings["scoring"] = recording.scoring
    elif recording.lane == "likelihood":
        wrong = one_of(recording.scoring, task.forms)
        raise DataError(f"{recording.model}: loglikelihoods of {recording.scoring!r}, no form of task {name}; {wrong}")
    return TaskSpec.model_validate(settings)


def _score_choice(sample: Sample, answer: Answer) -> Score:
    """What a choice that was read from a completion is worth, or a judgement without it."""
    score = Score(sample.id, sample.subject, sample.gold, answer.prompt_hash, error=answer.error)
    if answer.error is not None:
        return score
    prediction, is_right = answer.prediction, answer.is_right
    completion = None
    if answer.text is not None:
        completion = Completion(answer.text, "length" if answer.is_cut else "stop")
    return replace(
        score,
        prediction=prediction,
        correct=prediction in sample.golds if is_right is None else is_right,
        num_choice_chars=tuple(len(choice) for choice in sample.choices),
        completion=completion,
        extracted=None if prediction is None else LABELS[prediction],
    )


def _write(out: Path, name: str, recording: Recording, matching: Matching, target: _Target) -> Path:
    """Write a model's run folder, unless it is there already."""
    scores = [target.score(sample, answer) for sample, answer in matching.pairs]
    metrics = target.metrics(recording)
    results = summarise(scores, target.task.categories, metrics)
    key = identity(
        {
            "import": [name, recording.model, recording.origin.get("sha256"), recording.scoring, recording.num_fewshot],
            "task": [target.task.name, target.task.version, metrics[0]],
            "data": target.dataset.checksum,
            "categories": {category: list(subjects) for category, subjects in target.task.categories.items()},
        }
    )
    header = {
        "model": {"name": recording.model, "source": recording.model, "kind": IMPORTED},
        "task": target.describe(recording, len(scores)),
        "lane": recording.lane,
        "likelihood": "exact",
        "config": {
            "models": [{"source": recording.model, "name": recording.model}],
            "tasks": [target.spec.model_dump(mode="json")],
        },
        "import": {"format": name, **recording.origin, **_counts(matching)},
        "steelyard_version": __version__,
        "started_at": _now(),
    }
    folder_name = run_name(recording.model, target.task.name, recording.scoring, recording.num_fewshot, key)
    with RunFolder.open(out, folder_name, key, header) as folder:
        if not folder.is_finished:
            folder.append(scores)
            notes = [*recording.notes, *_notes(matching, len(target.samples))]
            folder.finish([score.id for score in scores], {**results, "notes": notes, "finished_at": _now()})
        return folder.path


def _counts(matching: Matching) -> dict[str, Any]:
    """How many answers went where, and the names of those that did not go in."""
    left_out = {"unmatched": matching.unmatched, "ambiguous": matching.ambiguous, "repeated": matching.repeated}
    return {
        "num_matched": len(matching.pairs),
        **{f"num_{key}": len(answers) for key, answers in left_out.items()},
        **{key: [answer.where for answer in answers] for key, answers in left_out.items() if answers},
    }


def _notes(matching: Matching, num_samples: int) -> list[str]:
    """What was left out, in words."""
    words = {
        "match no question of the task": matching.unmatched,
        "are ambiguous (equal questions that were answered differently)": matching.ambiguous,
        "repeat another answer": matching.repeated,
    }
    notes = []
    for what, answers in words.items():
        if answers:
            named = ", ".join(answer.where for answer in answers[:_NUM_NAMED])
            more = ", …" if len(answers) > _NUM_NAMED else ""
            notes.append(f"{len(answers)} answers {what}: {named}{more}")
    if num_missing := num_samples - len(matching.pairs):
        notes.append(f"{num_missing} of the task's {num_samples} questions have no answer here, and are in no average")
    return notes


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
