"""What runs of one task have in common: which questions, and whether these were put in the same way.

Questions are paired by id and content. The rows are loaded again for it, and must be those that were scored. Limits
and subjects may differ between runs: what they share remains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.config import RunPlan, TaskSpec
from bench.errors import DataError, PlanError, RunFolderError, one_of
from bench.imports.matching import sample_hash
from bench.records import Sample, Score
from bench.runs.names import RUN_FILE
from bench.runs.reading import Run
from bench.schema import validate
from bench.stats.clusters import Ints, number_clusters
from bench.tasks.dataset import Dataset, load_rows
from bench.tasks.prepare import prepare_job
from bench.tasks.task import load_task

SETTINGS = {
    "lane": "lane",
    "task.scoring": "form",
    "task.num_fewshot": "number of shots",
    "task.version": "task version",
    "task.headline": "metric",
    "likelihood": "kind of likelihood",
}
"""Settings that change what a score means, by their place in run.json, and in words. Prompts are looked at, too."""

_UNKNOWN = "not recorded"


class SharedQuestions:
    """The questions that several runs of one task were put.

    Attributes:
        ids: of those that all runs were put, in the first run's order.
        num_left_out: further questions, put to some of the runs only.
        num_differing: questions of one id but different content, left out.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        """Load the runs' rows and pair them.

        Raises:
            RunFolderError: the rows are not those that were scored, or run.json does not say which they are.
            InputError: they are not at hand.
        """
        loaded: dict[TaskSpec, Dataset] = {}
        contents = []
        for run in runs:
            spec = task_spec(run)
            if spec not in loaded:
                loaded[spec] = _load(spec)
            if loaded[spec].checksum != _look_up(run, "task.data.sha256"):
                raise RunFolderError(f"{run.path}: the rows at hand ({loaded[spec].origin}) are not those it scored")
            own = {sample.id: sample for sample in loaded[spec].samples}
            contents.append({score.id: _content(own[score.id]) for score in run.scores if score.id in own})
        everywhere = [one for one in contents[0] if all(one in other for other in contents)]
        self.ids = [one for one in everywhere if len({content[one] for content in contents}) == 1]
        self.num_differing = len(everywhere) - len(self.ids)
        self.num_left_out = len(set().union(*contents)) - len(everywhere)
        first = task_spec(runs[0])
        self._name = first.task
        self._cluster = None if first.lm_eval_name is not None else load_task(first.task).cluster
        self._samples = {sample.id: sample for sample in loaded[first].samples}

    def clusters(self, column: str | None) -> Ints | None:
        """The cluster of each question, by equal values of a column of the rows; None: each is its own.

        Args:
            column: its name; None: the one that the task names, if it names one.

        Raises:
            PlanError: the rows have no such column.
        """
        column = column or self._cluster
        if column is None:
            return None
        for one in self.ids:
            if column not in (known := self._samples[one].variables):
                raise PlanError(f"task {self._name}: its rows have no column {column!r}; {one_of(column, known)}")
        return number_clusters([json.dumps(self._samples[one].variables[column], default=str) for one in self.ids])


def setting_values(runs: Sequence[Run], ids: Sequence[str]) -> dict[str, list[str]]:
    """What each run's settings are, in words, by the setting's name; those in which all runs are equal are left out."""
    values = {
        words: [_UNKNOWN if (found := _look_up(run, place)) is None else str(found) for run in runs]
        for place, words in SETTINGS.items()
    }
    values["prompts"] = _prompts(runs, ids)
    return {words: own for words, own in values.items() if len(set(own)) > 1}


def _prompts(runs: Sequence[Run], ids: Sequence[str]) -> list[str]:
    """A name for the prompts that each run was put the questions in; prompts that were shortened are not looked at."""
    scores = [{score.id: score for score in run.scores} for run in runs]
    whole = [one for one in ids if not any(own[one].num_shots_dropped for own in scores)]
    return [_prompts_of(run, own, whole) for run, own in zip(runs, scores, strict=True)]


def _prompts_of(run: Run, scores: Mapping[str, Score], ids: Sequence[str]) -> str:
    hashes = [scores[one].prompt_hash for one in ids]
    if not all(hashes):
        return str(_look_up(run, "import.settings") or _UNKNOWN)
    return f"hash {hashlib.sha256(''.join(hashes).encode()).hexdigest()[:8]}"


def _load(spec: TaskSpec) -> Dataset:
    return load_rows(load_task(spec.task), spec) if spec.lm_eval_name is None else prepare_job(spec).dataset


def task_spec(run: Run) -> TaskSpec:
    """The task of a run as its plan had it.

    Raises:
        RunFolderError: run.json does not say.
    """
    config = run.info.get("config")
    if not isinstance(config, Mapping):
        raise RunFolderError(f"{run.path / RUN_FILE} lacks config, which says what its task's rows are")
    return validate(RunPlan, dict(config), RunFolderError, str(run.path / RUN_FILE)).tasks[0]


def _content(sample: Sample) -> tuple[object, ...]:
    """What must be equal for two questions to be the same one."""
    try:
        content = sample_hash(sample)
    except DataError:  # a task without a question column
        content = json.dumps(sample.variables, default=str)
    return content, sample.golds, sample.references


def _look_up(run: Run, place: str) -> Any:
    value: Any = run.info
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
