"""The lane `generate`: a sample's prompt goes to a model that writes, and what it wrote is read and scored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from bench.answering import Answer, answer_samples
from bench.completer import Completer, GenerationSettings
from bench.engine.pipeline import Progress
from bench.metrics import failed_sample
from bench.records import Completion, Message, PromptedSample, Score
from bench.runs.folder import RunShare
from bench.tasks.job import Job
from bench.team import ALONE, Team


class Writer(Protocol):
    """A model that writes, as a run needs it."""

    def writing(self, info: Mapping[str, Any]) -> AbstractContextManager[Completer]:
        """What completes prompts within this context; the model is loaded, or connected to, on entering it.

        Args:
            info: run.json as it stands: an earlier sitting may have left there what this one adds to.

        Raises:
            SteelyardError: the model cannot be loaded or reached.
        """

    def fits(self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings) -> Sequence[bool]:
        """Whether the model has room for each prompt and a completion of the most tokens; asked inside `writing`."""

    def measured(self) -> Mapping[str, Any]:
        """What to merge into run.json, as of now and with earlier sittings: `engine`, `peak_memory_bytes`, ..."""


def complete_samples(writer: Writer, job: Job, folder: RunShare, progress: Progress, team: Team = ALONE) -> None:
    """Complete and score what the run folder does not hold yet, and finish it.

    Raises:
        SteelyardError: the model cannot be had or goes on no longer, the disk is full, or no sample got a score.
    """
    answer_samples(_Completing(writer, job), job, folder, progress, team)


class _Completing:
    """A writer as what answers a job, see `bench.answering.Answerer`."""

    def __init__(self, writer: Writer, job: Job) -> None:
        self._writer = writer
        self._job = job

    @contextlib.contextmanager
    def answering(self, info: Mapping[str, Any]) -> Iterator[Answer]:
        """Complete within this context."""
        with self._writer.writing(info) as completer:
            yield partial(self._complete, completer)

    def measured(self) -> Mapping[str, Any]:
        """The writer's."""
        return self._writer.measured()

    def summed(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Tokens and money."""
        return {"tokens": count_tokens(scores), "cost_usd": cost_usd(scores)}

    def _complete(self, completer: Completer, samples: Sequence[PromptedSample]) -> Iterator[Score]:
        shortened = self._shortened(samples)
        chats = [self._job.conversation(sample.prompt) for sample, _ in shortened]
        results = completer.complete(chats, self._job.settings)
        return (self._score(*shortened[number], result) for number, result in results)

    def _shortened(self, samples: Sequence[PromptedSample]) -> list[tuple[PromptedSample, int]]:
        """Samples with as many shots as the model has room for, and how many each was left without."""
        num_dropped = [0] * len(samples)
        waiting = [place for place, sample in enumerate(samples) if sample.prompt.shots]
        while waiting:
            shorter = [samples[place].without_shots(num_dropped[place]) for place in waiting]
            fit = self._writer.fits([self._job.conversation(sample.prompt) for sample in shorter], self._job.settings)
            too_long = [place for place, does_fit in zip(waiting, fit, strict=True) if not does_fit]
            waiting = [place for place in too_long if num_dropped[place] < len(samples[place].prompt.shots)]
            for place in waiting:
                num_dropped[place] += 1
        return [(sample.without_shots(num), num) for sample, num in zip(samples, num_dropped, strict=True)]

    def _score(self, sample: PromptedSample, num_shots_dropped: int, result: Completion | str) -> Score:
        if isinstance(result, str):
            return failed_sample(sample, result)
        return self._job.score_completion(sample, result, num_shots_dropped)


def count_tokens(scores: Sequence[Score]) -> dict[str, int]:
    """The tokens of completions, as far as they were counted."""
    completions = [score.completion for score in scores if score.completion is not None]
    return {
        "prompt": sum(completion.num_prompt_tokens or 0 for completion in completions),
        "cached": sum(completion.num_cached_tokens for completion in completions),
        "completion": sum(completion.num_completion_tokens or 0 for completion in completions),
        "reasoning": sum(completion.num_reasoning_tokens for completion in completions),
    }


def cost_usd(scores: Sequence[Score]) -> float | None:
    """What the completions of scored samples cost; None where nothing was charged."""
    costs = [score.completion.cost_usd for score in scores if score.completion is not None]
    charged = [cost for cost in costs if cost is not None]
    return sum(charged) if charged else None
