"""Gemini's batches, with their requests inside.

Answers have come in another order than their requests (googleapis/python-genai, issue 1909), and at times without the
metadata that tells whose they are (issue 2008). Such an answer is none: it is never matched by its place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bench.api.batches.contract import BatchRequest, BatchState, Mark, Result
from bench.api.clients.gemini import GeminiClient, content, read_answer
from bench.api.contract import Access, Answer
from bench.api.failures import ApiFailure, RequestFailure, answer_or_failure, lost, redacted
from bench.completer import GenerationSettings
from bench.records import Message

_KEY = "key"
_NAME = "steelyard-"
_ENDED = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})


class GeminiBatches(GeminiClient):
    """See `BatchClient`."""

    def encode(self, key: str, prompt: Sequence[Message], settings: GenerationSettings) -> BatchRequest:
        """See `BatchClient`."""
        turns = content(prompt)
        config = {**self.generation(settings), **(turns["config"] or {})}
        request = self.types.InlinedRequest(contents=turns["contents"], config=config, metadata={_KEY: key})
        written = json.dumps(request.model_dump(mode="json", by_alias=True, exclude_none=True))
        return BatchRequest(request, len(written) + len(self.access.model) + 64)

    async def submit(self, requests: Sequence[BatchRequest], label: str) -> str:
        """See `BatchClient`."""
        with self.told_apart():
            job = await self.client().batches.create(
                model=self.access.model,
                src=[request.body for request in requests],
                config=self.types.CreateBatchJobConfig(display_name=_NAME + label),
            )
        return str(job.name)

    async def find(self, mark: Mark) -> list[str]:
        """See `BatchClient`."""
        with self.told_apart():
            jobs = await self.client().batches.list(config=self.types.ListBatchJobsConfig(page_size=100))
            return [str(job.name) async for job in jobs if job.display_name == _NAME + mark.label]

    async def state(self, batch_id: str) -> BatchState:
        """See `BatchClient`."""
        job = await self._get(batch_id)
        state = str(getattr(job.state, "value", job.state)).removeprefix("JOB_STATE_")
        return BatchState(state in _ENDED, state.endswith("SUCCEEDED"), state.lower())

    async def results(self, batch_id: str, settings: GenerationSettings) -> list[Result]:
        """See `BatchClient`."""
        job = await self._get(batch_id)
        responses = (job.dest and job.dest.inlined_responses) or []
        keyed = [(response, (response.metadata or {}).get(_KEY)) for response in responses]
        return [(key, self._read(response, settings)) for response, key in keyed if key]

    async def _get(self, batch_id: str) -> Any:
        with self.told_apart():
            job = await self.client().batches.get(name=batch_id)
        if job.state is None:
            raise lost(self.access, ValueError("the response holds no batch"))
        return job

    def _read(self, result: Any, settings: GenerationSettings) -> Answer | ApiFailure:
        access, response, error = self.access, result.response, result.error
        if response is None:
            return RequestFailure(f"{access.provider}: {redacted(str(error and error.message), access)}")
        return answer_or_failure(lambda: read_answer(access, response, settings))


def build_client(access: Access) -> GeminiBatches:
    """The client; see `bench.api.connect`."""
    return GeminiBatches(access)
