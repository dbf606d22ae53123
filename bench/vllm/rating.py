"""The lane `likelihood` of models that vLLM runs: each choice is one token, rated as the next one of its prompt."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from bench.answering import Answer
from bench.engine.encode import EncodedSample
from bench.engine.pack import TokenRequest
from bench.metrics import Shortening, failed_sample
from bench.records import Loglikelihood, PromptedSample, Score
from bench.session import Session
from bench.tasks.job import Job
from bench.vllm.engine import NextToken, VllmEngine
from bench.vllm.selfcheck import next_token_difference
from bench.watching import Sitting

Ids = tuple[int, ...]


class Host(Protocol):
    """Who has the model."""

    session: Session
    engine: VllmEngine

    def load(self) -> None:
        """Load the model now, if it is not."""

    def check(self, measure: Callable[[], float]) -> None:
        """Refuse the model if what is measured is more than rounding."""

    def describe_place(self) -> dict[str, Any]:
        """What to record of where and how it ran."""


class CacheShare:
    """How much of the prompts came from the prefix cache."""

    def __init__(self) -> None:
        self._num = self._num_cached = 0

    def count(self, num: int, num_cached: int) -> None:
        """A prompt of `num` tokens has been read."""
        self._num += num
        self._num_cached += num_cached

    @property
    def share(self) -> float | None:
        """Of this sitting's prompt tokens; None before the first."""
        return self._num_cached / self._num if self._num else None


class VllmRater:
    """A model that vLLM runs as what rates a job's choices, see `bench.answering.Answerer`."""

    def __init__(self, host: Host, job: Job, encoded: Mapping[str, EncodedSample]) -> None:
        self._host = host
        self._job = job
        self._encoded = encoded
        self._sitting = Sitting(host.session)
        self._cache = CacheShare()

    @contextlib.contextmanager
    def answering(self, info: Mapping[str, Any]) -> Iterator[Answer]:
        """Load the model, check it, and rate with it, watching its devices."""
        requests = [request for own in self._encoded.values() for request in own.requests[:1]]
        with self._sitting.working(info, self._host.load):
            self._host.check(lambda: next_token_difference(self._host.engine, requests))
            yield self._rate

    def measured(self) -> dict[str, Any]:
        """What to record beside the scores."""
        place = {"path": "next_token", **self._host.describe_place(), "prefix_cache_share": self._cache.share}
        return {**self._sitting.measured(), "engine": place}

    def summed(self, scores: Sequence[Score]) -> dict[str, Any]:  # noqa: ARG002
        """Tokens if each request were read by itself, and those of the prompts that vLLM is given."""
        requests = [own.requests for own in self._encoded.values()]
        logical = sum(len(one.inputs) for own in requests for one in own)
        prompts = sum(len(ids) for own in requests for ids in asked_tokens(own))
        return {"tokens": {"logical": logical, "prompt": prompts}, "requests": {"num": sum(map(len, requests))}}

    def _rate(self, samples: Sequence[PromptedSample]) -> Iterator[Score]:
        """The score of each sample as soon as its last prompt is answered; those that cannot be encoded first."""
        prompts: list[tuple[Ids, list[int]]] = []
        owners: list[tuple[int, Ids]] = []
        waiting: dict[int, dict[Ids, NextToken]] = {}
        for number, sample in enumerate(samples):
            own = self._encoded[sample.sample.id]
            if own.error is not None:
                yield failed_sample(sample, own.error)
                continue
            waiting[number] = {}
            for ids, targets in asked_tokens(own.requests).items():
                prompts.append((ids, targets))
                owners.append((number, ids))
        for place, found in self._sitting.timed(self._host.engine.next_tokens(prompts)):
            number, ids = owners[place]
            self._cache.count(len(ids), found.num_cached)
            waiting[number][ids] = found
            own = self._encoded[samples[number].sample.id]
            if len(waiting[number]) == len(asked_tokens(own.requests)):
                yield self._score(samples[number], own, waiting.pop(number))

    def _score(self, sample: PromptedSample, own: EncodedSample, found: Mapping[Ids, NextToken]) -> Score:
        prompted = sample.without_shots(own.num_shots_dropped)
        rated = [_loglikelihood(found[_ids(request)], request.targets[0]) for request in own.requests]
        for one in rated:
            if not math.isfinite(one.value):
                return failed_sample(prompted, f"the model returned {one.value} instead of a loglikelihood")
        return self._job.score(prompted, rated, Shortening(own.num_shots_dropped, own.num_cut_tokens > 0))


def asked_tokens(requests: Sequence[TokenRequest]) -> dict[Ids, list[int]]:
    """The distinct prompts of a sample's requests, and the tokens that each is asked about."""
    found: dict[Ids, list[int]] = {}
    for request in requests:
        found.setdefault(_ids(request), []).append(request.targets[0])
    return found


def _ids(request: TokenRequest) -> Ids:
    return tuple(request.inputs.tolist())


def _loglikelihood(found: NextToken, target: int) -> Loglikelihood:
    return Loglikelihood(found.logprobs[target], found.greedy_id == target, 1)
