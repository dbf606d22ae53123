"""One task as a plan asks for it, ready to be put to any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

from bench.completer import GenerationSettings
from bench.config import TaskSpec
from bench.metrics import AS_IT_IS, Shortening, failed_sample, score_sample, summarise
from bench.records import Completion, Lane, Loglikelihood, Message, Prompt, PromptedSample, Score
from bench.tasks.chat import ChatPrompt, Render, conversation, conversation_hash, in_chat
from bench.tasks.dataset import Dataset
from bench.tasks.form import Form
from bench.tasks.prompts import prompt_hash
from bench.tasks.task import Task
from bench.writing.answers import score_completion


@dataclass
class Job(ABC):
    """A task, its rows and its prompts; the same for every model."""

    spec: TaskSpec
    dataset: Dataset
    samples: tuple[PromptedSample, ...]

    @property
    @abstractmethod
    def name(self) -> str:
        """The task's."""

    @property
    @abstractmethod
    def lane(self) -> Lane:
        """What models are asked for."""

    @property
    @abstractmethod
    def settings(self) -> GenerationSettings:
        """How completions are asked for, in the lane `generate`."""

    @property
    def asks_for_labels(self) -> bool:
        """Whether the choices are labels, which are a token each."""
        return False

    @property
    def title(self) -> str:
        """The task and how it is put, as people read it."""
        shots = "" if self.spec.num_fewshot is None else f" {self.spec.num_fewshot}-shot"
        return f"{self.name} {self.spec.scoring}{shots}"

    @cached_property
    def prompt_hash(self) -> str:
        """Equal if and only if all prompts are, before a model's own chat template."""
        if self.spec.chat_template:
            return conversation_hash(self.samples, is_multi_turn=self.spec.multi_turn)
        return prompt_hash(self.samples)

    @abstractmethod
    def in_chat(self, render: Render) -> Self:
        """The job with its prompts as a chat template writes them."""

    def conversation(self, prompt: Prompt) -> tuple[Message, ...]:
        """A prompt as what a model that writes is told."""
        if self.spec.chat_template and not isinstance(prompt, ChatPrompt):
            return conversation(prompt, is_multi_turn=self.spec.multi_turn)
        return (Message("user", prompt.text),)

    @abstractmethod
    def score(
        self,
        prompted: PromptedSample,
        loglikelihoods: Sequence[Loglikelihood],
        shortening: Shortening = AS_IT_IS,
    ) -> Score:
        """What the loglikelihoods of a sample's requests are worth."""

    @abstractmethod
    def score_completion(self, prompted: PromptedSample, completion: Completion, num_shots_dropped: int = 0) -> Score:
        """What a completion of a sample's prompt is worth."""

    @abstractmethod
    def summarise(self, scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
        """The parts `metrics`, `macro`, `groups` and `categories` of run.json, see `bench.metrics.summarise`."""

    def rescore(self, prompted: PromptedSample, score: Score) -> Score | None:
        """The score again, as its loglikelihoods or its completion give it; None where it lacks some of them."""
        if score.error is not None:  # which prompt it was put with is not known: shots may have been left out
            return replace(failed_sample(prompted, score.error), prompt_hash=score.prompt_hash)
        shorter = prompted.without_shots(score.num_shots_dropped)
        if self.lane == "generate":
            if score.completion is None:
                return None
            return self.score_completion(shorter, score.completion, score.num_shots_dropped)
        if not len(score.loglikelihoods) == len(score.is_greedy) == len(prompted.requests):
            return None
        pairs = zip(score.loglikelihoods, score.is_greedy, strict=True)
        outcomes = [Loglikelihood(value, is_greedy, 1) for value, is_greedy in pairs]
        shortening = Shortening(score.num_shots_dropped, score.truncated and not score.num_shots_dropped)
        return self.score(shorter, outcomes, shortening)

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """What of the task and its prompts can change an answer: its part of a run's identity."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The part `task` of run.json."""

    def describe_rows(self) -> dict[str, Any]:
        """What there is to say of any task's rows and prompts."""
        return {
            "num_samples": len(self.samples),
            "num_available": self.dataset.num_available,
            "limit": self.spec.limit,
            "subjects": None if self.spec.subjects is None else list(self.spec.subjects),
            "data": {
                "origin": self.dataset.origin,
                "revision": self.dataset.revision,
                "sha256": self.dataset.checksum,
            },
            "prompt_hash": self.prompt_hash,
        }


@dataclass
class TaskJob(Job):
    """A job that a task file describes."""

    task: Task

    @property
    def name(self) -> str:
        """The task file's."""
        return self.task.name

    @property
    def form(self) -> Form:
        """How the questions are put."""
        return self.task.forms[self.spec.scoring]

    @property
    def lane(self) -> Lane:
        """The form's."""
        return self.form.lane

    @property
    def delimiter(self) -> str:
        """What stands before each continuation."""
        return "" if self.spec.chat_template else self.form.delimiter

    def in_chat(self, render: Render) -> Self:
        """The job with its prompts as a chat template writes them."""
        samples = in_chat(self.samples, render, self.form.delimiter, is_multi_turn=self.spec.multi_turn)
        return replace(self, samples=samples)

    @property
    def settings(self) -> GenerationSettings:
        """The form's."""
        asked = self.form.generate
        assert asked is not None
        return GenerationSettings(asked.max_tokens, asked.stop, asked.temperature, self.spec.seed)

    @property
    def asks_for_labels(self) -> bool:
        """Whether the form does."""
        return self.form.continuations == "labels"

    def score(
        self,
        prompted: PromptedSample,
        loglikelihoods: Sequence[Loglikelihood],
        shortening: Shortening = AS_IT_IS,
    ) -> Score:
        """Score by the form's metrics."""
        metrics, delimiter = self.form.metrics, self.delimiter
        return score_sample(prompted, loglikelihoods, metrics=metrics, delimiter=delimiter, shortening=shortening)

    def score_completion(self, prompted: PromptedSample, completion: Completion, num_shots_dropped: int = 0) -> Score:
        """Score by the form's metrics what is read from the completion."""
        return score_completion(prompted, completion, self.form, num_shots_dropped)

    def summarise(self, scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
        """The form's metrics, by the task's categories."""
        return summarise(scores, self.task.categories, self.form.metrics)

    def identity(self) -> dict[str, object]:
        """Its rows, its prompts and how it is scored."""
        parts: dict[str, object] = {
            "task": [self.task.name, self.task.version, self.spec.scoring, self.form.metric],
            "data": self.dataset.checksum,
            "prompts": self.prompt_hash,
            "categories": {name: list(subjects) for name, subjects in self.task.categories.items()},
            "limit": self.spec.limit,
        }
        if self.form.generate is not None:
            parts["generate"] = asdict(self.settings)
            if self.form.program is not None:
                parts["program"] = self.form.program
            parts["extract"] = self.form.extraction.model_dump(mode="json")
        return parts

    def describe(self) -> dict[str, Any]:
        """What its file says, and of its rows."""
        return {
            "name": self.task.name,
            "version": self.task.version,
            "title": self.task.title,
            "licence": self.task.licence,
            "scoring": self.spec.scoring,
            "num_fewshot": self.spec.num_fewshot,
            "headline": self.form.metric,
            **self.describe_rows(),
        }
