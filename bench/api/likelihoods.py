"""The lane `likelihood` of models behind an API: two ways to rate choices without the model's own weights.

- `letters`: the probabilities of the options' letters at the first token of the answer, from the log-probabilities of
  the most probable tokens that some vendors return. They are normalised over the letters; the mass that falls outside
  is recorded. No likelihood of a text: a table says so.
- `echo`: the likelihoods of continuations, from a server of one's own that says prompts back with log-probabilities,
  once it has shown that they are true.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bench.api.completer import ApiCompleter
from bench.api.pool import Answered
from bench.completer import GenerationSettings
from bench.engine.pipeline import Progress
from bench.metrics import failed_sample
from bench.records import Loglikelihood, Message, PromptedSample, Score
from bench.runs.folder import RunShare
from bench.tasks.job import Job

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


def score_likelihoods(
    way: Letters | Echo, completer: ApiCompleter, job: Job, folder: RunShare, progress: Progress
) -> None:
    """Rate the choices of what the run folder does not hold yet, journal each sample at once, and finish the run.

    Raises:
        SteelyardError: the provider will not go on, the disk is full, or no sample got a score.
    """
    began = time.perf_counter()
    before = dict(folder.info.get("timing", {}))
    pending = [sample for sample in job.samples if sample.sample.id not in folder.done]
    progress.plan(len(job.samples), is_all=True)
    progress.advance(len(job.samples) - len(pending))

    def measured() -> dict[str, Any]:
        total_s = round(time.perf_counter() - began + before.get("total_s", 0.0), 4)
        return {"api": asdict(completer.tally), "timing": {"total_s": total_s}}

    try:
        for score in _scores(way, completer, job, pending):
            folder.append([score])
            progress.advance(1)
    finally:
        folder.update(measured())
    order = [sample.sample.id for sample in job.samples]
    lines = folder.failed | folder.done
    scores = [lines[key] for key in order]
    outside = [score.values[OUTSIDE_MASS] for score in scores if OUTSIDE_MASS in score.values]
    results = {
        **job.summarise(scores),
        **({OUTSIDE_MASS: sum(outside) / len(outside)} if outside else {}),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    folder.finish(order, results)


def _scores(
    way: Letters | Echo, completer: ApiCompleter, job: Job, samples: Sequence[PromptedSample]
) -> Iterator[Score]:
    """The score of each sample as soon as its last request is answered."""
    owners: list[tuple[int, int]] = []
    chats: list[tuple[Message, ...]] = []
    waiting: dict[int, dict[int, Answered | str]] = {}
    nums: list[int] = []
    for number, sample in enumerate(samples):
        asked = way.chats(job, sample)
        nums.append(len(asked))
        owners += [(number, place) for place in range(len(asked))]
        chats += asked
    for request, result in completer.answers(chats, way.settings):
        owner, place = owners[request]
        found = waiting.setdefault(owner, {})
        found[place] = result
        if len(found) == nums[owner]:
            yield _score(way, job, samples[owner], [found[place] for place in sorted(found)])
            del waiting[owner]


def _score(way: Letters | Echo, job: Job, sample: PromptedSample, results: Sequence[Answered | str]) -> Score:
    errors = [result for result in results if isinstance(result, str)]
    if errors:
        return failed_sample(sample, errors[0])
    return way.score(job, sample, [result for result in results if not isinstance(result, str)])
