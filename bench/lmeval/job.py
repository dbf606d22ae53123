"""A task of lm-evaluation-harness's as a job of ours: its prompts, filters and metrics, on our engine.

A document is a sample, each of its requests one of the sample's. What a model says of them goes through lm-eval's own
filters and `process_results`, and the run's numbers are its own aggregations of what these give. That is worked out
from the loglikelihoods or the completion alone, so that a run can be resumed and verified like any other. Only a
standard error that it draws by bootstrap is left out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from numbers import Real
from typing import Any, Self

from lm_eval.api.metrics import acc_all, acc_all_stderr, mean_stderr
from lm_eval.api.metrics import mean as lm_eval_mean

from bench.completer import Decoding
from bench.config import TaskSpec
from bench.errors import InputError, PlanError, ScoringError, one_line
from bench.lmeval.asked import read_decoding
from bench.lmeval.documents import document_text, prompt_documents
from bench.lmeval.tasks import LoadedTasks, load_tasks, name_them
from bench.measures import Measure
from bench.metrics import AS_IT_IS, Shortening, failed_sample, score_sample, summarise
from bench.records import Completion, Lane, Loglikelihood, PromptedSample, Score
from bench.tasks.chat import Render
from bench.tasks.dataset import Dataset
from bench.tasks.job import Job

MAX_GEN_TOKS = 256
"""Tokens of a completion whose task does not say."""

_BINARY = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"}
_PLACES = ("dataset_path", "dataset_name", "dataset_kwargs")  # of rows, whose content is what counts
_NO_FILTER = "none"
_NOT_FOUND = "[invalid]"  # what lm-eval's filters give where they find nothing


def prepare_lm_eval_job(spec: TaskSpec) -> LmEvalJob:
    """Load lm-eval's task, or tasks, and take their requests over.

    Raises:
        InputError: there is no such task, its rows are not at hand, or it cannot be run by a plan.
    """
    loaded = load_tasks(spec)
    samples: list[PromptedSample] = []
    asked: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    for leaf, task in loaded.leaves.items():
        own = [tuple(group) for _, group in groupby(task.instances, lambda one: one.doc_id)]
        prompted = prompt_documents(task, leaf, own, "" if loaded.is_single else leaf)
        samples += prompted
        asked |= {one.sample.id: (task, instances) for one, instances in zip(prompted, own, strict=True)}
    dataset = Dataset(
        samples=tuple(one.sample for one in samples),
        shots={},
        num_available=sum(len(task.eval_docs) for task in loaded.leaves.values()),
        checksum=_sha256(document_text(instances[0].doc) for _, instances in asked.values()),
        origin=", ".join(dict.fromkeys(_origin(task) for task in loaded.leaves.values())),
        revision=None,
    )
    settled = spec.model_copy(update={"num_fewshot": loaded.num_fewshot})
    return LmEvalJob(settled, dataset, tuple(samples), loaded, asked, _decoding(spec, loaded, asked))


@dataclass
class LmEvalJob(Job):
    """A job that lm-evaluation-harness describes.

    Attributes:
        loaded: its tasks; each is a subject where there are several.
        asked: for each sample, its task and the instances that became its requests.
        decoding: how completions are asked for; None in the lane `likelihood`.
    """

    loaded: LoadedTasks
    asked: Mapping[str, tuple[Any, tuple[Any, ...]]]
    decoding: Decoding | None

    @property
    def name(self) -> str:
        """As lm-eval has it."""
        return str(self.spec.lm_eval_name)

    @property
    def lane(self) -> Lane:
        """`generate` for its `generate_until`."""
        return "likelihood" if self.decoding is None else "generate"

    @property
    def settings(self) -> Decoding:
        """Its generation arguments."""
        assert self.decoding is not None
        return self.decoding

    @cached_property
    def headline(self) -> str:
        """The first metric of its first task, by the first filter."""
        task = next(iter(self.loaded.leaves.values()))
        return _metric_name(next(iter(task.aggregation()), "acc"), task._filters[0].name)

    def in_chat(self, render: Render) -> Self:  # noqa: ARG002
        """As it is: a plan cannot ask for a chat template here."""
        return self

    def score(
        self,
        prompted: PromptedSample,
        loglikelihoods: Sequence[Loglikelihood],
        shortening: Shortening = AS_IT_IS,
    ) -> Score:
        """Score by lm-eval's own reckoning."""
        delimiter = self._task(prompted.sample.id).config.target_delimiter
        score = score_sample(prompted, loglikelihoods, metrics=(), delimiter=delimiter, shortening=shortening)
        return score if score.error is not None else self._judge(prompted, score)

    def score_completion(self, prompted: PromptedSample, completion: Completion, num_shots_dropped: int = 0) -> Score:
        """The same, of what was written."""
        sample = prompted.sample
        score = Score(
            id=sample.id,
            subject=sample.subject,
            gold=None,
            prompt_hash=prompted.prompt.sha256,
            truncated=num_shots_dropped > 0 or completion.num_cut_tokens > 0,
            num_shots_dropped=num_shots_dropped,
            completion=completion,
        )
        return self._judge(prompted, score)

    def _judge(self, prompted: PromptedSample, score: Score) -> Score:
        """A score with what lm-eval makes of it."""
        try:
            values, found = self._values(score)
        except Exception as problem:  # a task is a program and may fail in any way
            return failed_sample(prompted, f"lm-evaluation-harness cannot score it: {one_line(problem)}")
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, Real)}
        for name, value in numbers.items():
            if not math.isfinite(value):
                return failed_sample(prompted, f"lm-evaluation-harness's {name} of it is {value}")
        return replace(
            score,
            correct=_is_right(numbers.get(self.headline)),
            correct_norm=_is_right(numbers.get("acc_norm")),
            values=numbers,
            extracted=found if score.completion is not None and found != _NOT_FOUND else None,
        )

    def _values(self, score: Score) -> tuple[dict[str, Any], str | None]:
        """What lm-eval's metrics make of a sample, by their names here, and what its first filter read."""
        task, instances = self.asked[score.id]
        if score.completion is not None:
            answers: list[Any] = [score.completion.text]
        elif task.OUTPUT_TYPE == "loglikelihood_rolling":
            answers = list(score.loglikelihoods)
        else:
            answers = list(zip(score.loglikelihoods, score.is_greedy, strict=True))
        asked = [
            replace(one, resps=[answer], filtered_resps={}) for one, answer in zip(instances, answers, strict=True)
        ]
        values: dict[str, Any] = {}
        for ensemble in task._filters:
            ensemble.apply(asked)
            found = task.process_results(asked[0].doc, [one.filtered_resps[ensemble.name] for one in asked])
            values |= {_metric_name(metric, ensemble.name): value for metric, value in found.items()}
        first = asked[0].filtered_resps[task._filters[0].name]
        return values, first if isinstance(first, str) else None

    def _task(self, sample_id: str) -> Any:
        return self.asked[sample_id][0]

    def summarise(self, scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
        """lm-eval's aggregations; of several tasks, each one's and their averages by size (micro) and plain (macro).

        Raises:
            ScoringError: no sample has a score, or lm-eval cannot aggregate them.
        """
        values = {score.id: self._values(score)[0] for score in scores if score.error is None}
        by_subject: dict[str, dict[str, None]] = {}
        for score in scores:
            if score.id in values:
                by_subject.setdefault(score.subject, {}).update(dict.fromkeys(values[score.id]))
        everywhere = [name for name in dict.fromkeys(key for own in by_subject.values() for key in own)]
        names = [name for name in everywhere if all(name in own for own in by_subject.values())]
        measures = {name: self._measure(name, values) for name in names}
        subjects = None if self.loaded.is_single else list(self.loaded.leaves)
        return summarise(scores, self.loaded.parts, measures, subjects)

    def _measure(self, name: str, values: Mapping[str, Mapping[str, Any]]) -> Measure:
        metric = name.partition(",")[0]
        items = [own[name] for own in values.values() if name in own]
        is_share = all(isinstance(item, Real) and 0 <= float(item) <= 1 for item in items)
        task = next(iter(self.loaded.leaves.values()))

        def average(scores: Sequence[Score]) -> tuple[float, float | None]:
            own = [values[score.id][name] for score in scores if name in values[score.id]]
            return _aggregate(self._task(scores[0].id), metric, own)

        return Measure(
            lanes=(self.lane,),
            value=lambda score: score.values[name],
            average=average,
            unit="share" if is_share else "number",
            is_binary=metric in _BINARY and all(item in (0, 1) for item in items),
            higher_is_better=bool(task.higher_is_better().get(metric, True)),
        )

    def identity(self) -> dict[str, object]:
        """Its rows, its prompts, and all that its files say of how it is scored."""
        parts: dict[str, object] = {
            "task": [self.spec.task, self.headline],
            "lm_eval": version("lm_eval"),
            "tasks": {leaf: _config_hash(task) for leaf, task in self.loaded.leaves.items()},
            "data": self.dataset.checksum,
            "prompts": self.prompt_hash,
            "limit": self.spec.limit,
        }
        return parts if self.decoding is None else {**parts, "generate": asdict(self.decoding)}

    def describe(self) -> dict[str, Any]:
        """What lm-eval says of it, and of its rows."""
        versions = {leaf: task.VERSION for leaf, task in self.loaded.leaves.items()}
        return {
            "name": self.name,
            "version": versions[self.name] if self.loaded.is_single else None,
            "title": f"{self.name}, of lm-evaluation-harness {version('lm_eval')}",
            "licence": "",
            "scoring": self.spec.scoring,
            "num_fewshot": self.spec.num_fewshot,
            "headline": self.headline,
            **self.describe_rows(),
            "lm_eval": {
                "version": version("lm_eval"),
                "output_type": self.loaded.output_type,
                "tasks": {leaf: str(own) for leaf, own in versions.items()},
            },
        }


def _decoding(spec: TaskSpec, loaded: LoadedTasks, asked: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> Decoding | None:
    """How all completions are asked for; None where none are."""
    if loaded.output_type != "generate_until":
        return None
    settings = {json.dumps(own[0].args[1], sort_keys=True, default=str): own[0].args[1] for _, own in asked.values()}
    if len(settings) > 1:
        raise PlanError(f"task {spec.task}: its tasks' generation_kwargs differ; {name_them(loaded.leaves)}")
    try:
        return read_decoding(next(iter(settings.values())), MAX_GEN_TOKS, spec.seed)
    except InputError as problem:
        raise PlanError(f"task {spec.task}: {problem}") from None


def _aggregate(task: Any, metric: str, items: list[Any]) -> tuple[float, float | None]:
    """lm-eval's aggregation of a task's metric, and its standard error where lm-eval has a formula for it."""
    aggregation: Callable[[list[Any]], Any] = task.aggregation().get(metric, lm_eval_mean)
    stderr_of = {lm_eval_mean: mean_stderr, acc_all: acc_all_stderr}.get(aggregation)
    try:
        value = float(aggregation(items))
        stderr = float(stderr_of(items)) if stderr_of is not None and len(items) > 1 else None
    except Exception as problem:  # a task is a program and may fail in any way
        reason = one_line(problem)
        raise ScoringError(f"lm-evaluation-harness cannot aggregate {metric} of {task.task_name}: {reason}") from None
    if not math.isfinite(value):
        raise ScoringError(f"lm-evaluation-harness's {metric} of {task.task_name} is {value}")
    return value, stderr


def _metric_name(metric: str, ensemble: str) -> str:
    """`acc`, or `exact_match,strict-match` where a task has named filters."""
    return metric if ensemble == _NO_FILTER else f"{metric},{ensemble}"


def _is_right(value: float | None) -> bool | None:
    return value == 1 if value in (0, 1) else None


def _config_hash(task: Any) -> str:
    """Of all that a task's file says, but where it and its rows are; functions are their source."""
    config = {key: value for key, value in task.dump_config().items() if key not in _PLACES}
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key != "config_source"}
    text = json.dumps({**config, "metadata": metadata}, sort_keys=True, default=str)
    return _sha256([re.sub(r" at 0x[0-9a-f]+", "", text)])


def _origin(task: Any) -> str:
    parts = [str(part) for part in (task.config.dataset_path, task.config.dataset_name) if part]
    return f"datasets {' '.join(parts)}"


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()
