"""The lane `likelihood` of models behind an API: two ways to rate choices without the model's own weights.

- `letters`: the probabilities of the options' letters at the first token of the answer, from the log-probabilities of
  the most probable tokens that some vendors return. They are normalised over the letters; the mass that falls outside
  is recorded. No likelihood of a text: a table says so.
- `echo`: the likelihoods of continuations, from a server of one's own that says prompts back with log-probabilities,
  once it has shown that they are true.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.answering import Answer
from bench.api.completer import ApiCompleter
from bench.api.pool import Answered
from bench.completer import GenerationSettings
from bench.metrics import failed_sample
from bench.records import Loglikelihood, Message, PromptedSample, Score
from bench.tasks.job import Job
from bench.writing.generating import cost_usd, count_tokens

OUTSIDE_MASS = "outside_mass"  # in `Score.values`: the first token's probability of being none of the letters
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Letters:
    """Rates choices by their letters' probabilities at the first token."""

    settings = GenerationSettings(max_tokens=1)

    def chats(self, job: Job, sample: PromptedSample) -> list[tuple[Message, ...]]:
        """One request a sample."""
        return [job.conversation(sample.prompt)]

    def score(self, job: Job, sample: PromptedSample, answers: Sequence[Answered]) -> Score:
        """The letters' probabilities as a score; where none of them was among the first tokens, no answer."""
        (answered,) = answers
        labels = [request.continuation.strip() for request in sample.requests]
        seen = letter_masses(answered.answer.first_token, labels)
        completion = replace(answered.completion(), finish_reason="stop")  # one token is all that was asked for
        if not any(seen.values()):
            gold = sample.sample.gold
            return Score(
                sample.sample.id,
                sample.sample.subject,
                gold,
                sample.prompt.sha256,
                correct=False,
                correct_norm=False,
                values={OUTSIDE_MASS: 1.0},
                completion=completion,
            )
        most = max(answered.answer.first_token.values())
        masses = _fill_in(seen, answered.answer.first_token)
        total = sum(masses.values())
        rated = [
            Loglikelihood(math.log(masses[label] / total), bool(seen[label] >= math.exp(most) - _LEAST), 1)
            for label in labels
        ]
        score = job.score(sample, rated)
        outside = max(0.0, 1.0 - sum(seen.values()))
        return replace(
            score,
            values={**score.values, OUTSIDE_MASS: outside},
            completion=completion,
            extracted=labels[score.prediction or 0],
        )


@dataclass(frozen=True, slots=True)
class Echo:
    """Rates choices by their likelihoods, one request each."""

    settings = GenerationSettings(max_tokens=1)

    def chats(self, job: Job, sample: PromptedSample) -> list[tuple[Message, ...]]:  # noqa: ARG002
        """Context and continuation of each choice."""
        return [
            (Message("user", request.prompt.text), Message("assistant", request.continuation))
            for request in sample.requests
        ]

    def score(self, job: Job, sample: PromptedSample, answers: Sequence[Answered]) -> Score:
        """The likelihoods as a score."""
        rated = [answered.answer.loglikelihood for answered in answers]
        known = [one for one in rated if one is not None]
        return job.score(sample, known)


def letter_masses(first_token: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """The probability of each letter, with and without white space around it; 0 for one that was not returned.

    >>> letter_masses({"A": -1.0, " A": -1.0, "The": -2.0}, ["A", "B"])["A"] == 2 * math.exp(-1)
    True
    """
    masses = dict.fromkeys(labels, 0.0)
    for token, value in first_token.items():
        if token.strip() in masses:
            masses[token.strip()] += math.exp(value)
    return masses


def _fill_in(seen: Mapping[str, float], first_token: Mapping[str, float]) -> dict[str, float]:
    """Give letters that were not returned the most they can have: no more than any that was, nor than what is left."""
    left = max(_LEAST, 1.0 - sum(map(math.exp, first_token.values())))
    bound = min(left, math.exp(min(first_token.values())))
    return {label: mass or bound for label, mass in seen.items()}


class Rater:
    """An API's model as what answers a job by rating its choices, see `bench.answering.Answerer`.

    Args:
        way: how choices are rated.
        completer: asks the provider.
        job: the job.
        measured: what to record beside the scores, as of now.
    """

    def __init__(
        self, way: Letters | Echo, completer: ApiCompleter, job: Job, measured: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._way = way
        self._completer = completer
        self._job = job
        self.measured = measured

    @contextlib.contextmanager
    def answering(self, info: Mapping[str, Any]) -> Iterator[Answer]:  # noqa: ARG002
        """Rate with the provider."""
        yield self._rate

    def summed(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Tokens, money, and how much of the first tokens' probability fell outside the letters."""
        outside = [score.values[OUTSIDE_MASS] for score in scores if OUTSIDE_MASS in score.values]
        mass = {OUTSIDE_MASS: sum(outside) / len(outside)} if outside else {}
        return {**mass, "tokens": count_tokens(scores), "cost_usd": cost_usd(scores)}

    def _rate(self, samples: Sequence[PromptedSample]) -> Iterator[Score]:
        """The score of each sample as soon as its last request is answered."""
        owners: list[tuple[int, int]] = []
        chats: list[tuple[Message, ...]] = []
        waiting: dict[int, dict[int, Answered | str]] = {}
        nums: list[int] = []
        for number, sample in enumerate(samples):
            asked = self._way.chats(self._job, sample)
            nums.append(len(asked))
            owners += [(number, place) for place in range(len(asked))]
            chats += asked
        for request, result in self._completer.answers(chats, self._way.settings):
            owner, place = owners[request]
            found = waiting.setdefault(owner, {})
            found[place] = result
            if len(found) == nums[owner]:
                yield self._score(samples[owner], [found[place] for place in sorted(found)])
                del waiting[owner]

    def _score(self, sample: PromptedSample, results: Sequence[Answered | str]) -> Score:
        errors = [result for result in results if isinstance(result, str)]
        if errors:
            return failed_sample(sample, errors[0])
        return self._way.score(self._job, sample, [result for result in results if not isinstance(result, str)])
