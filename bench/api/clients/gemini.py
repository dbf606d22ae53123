"""Google Gemini's generateContent, through Google's own SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.request import getproxies

from bench.api.contract import Access, Answer, Heard, Usage, cut, sendable_stops
from bench.api.failures import Response, ServiceFailure, failure_of, lost
from bench.api.streams import Stream
from bench.completer import GenerationSettings
from bench.errors import MissingPackageError
from bench.records import FinishReason, Message

_FINISH: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "filtered",
    "RECITATION": "filtered",
    "BLOCKLIST": "filtered",
    "PROHIBITED_CONTENT": "filtered",
    "SPII": "filtered",
}


class GeminiClient:
    """Asks for content, one prompt at a time.

    The SDK spends most of its time on a request's configuration, field by field. What is the same for all requests, how
    they are generated, therefore goes into every body as it is: a client of the SDK for each settings.
    """

    def __init__(self, access: Access) -> None:
        try:
            import aiohttp
            from google import genai
            from google.genai import errors, types
        except ImportError:
            raise MissingPackageError(access.provider, "google-genai") from None
        self.access = access
        self.types = types
        self._sdk = genai
        self._http = aiohttp
        self._errors = errors
        self._clients: dict[GenerationSettings | None, Any] = {}
        self._sessions: list[Any] = []

    def client(self, settings: GenerationSettings | None = None) -> Any:
        """The SDK's asynchronous client; with `settings`, one whose requests all say how to generate."""
        if settings not in self._clients:
            access, types = self.access, self.types
            body = dict(access.extra_body)
            if settings is not None:
                own = types.GenerationConfig(**self.generation(settings)).model_dump(by_alias=True, exclude_none=True)
                body["generationConfig"] = own | body.get("generationConfig", {})
            options = types.HttpOptions(
                base_url=access.base_url,
                timeout=int(access.timeout_s * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),  # the retries are ours
                extra_body=body or None,
                aiohttp_client=None if settings is None else self._session(),
            )
            self._clients[settings] = self._sdk.Client(api_key=access.key, vertexai=False, http_options=options)
        return self._clients[settings].aio

    def _session(self) -> Any:
        """Connections for requests at once; the SDK's own would look for a password in `~/.netrc` before each."""
        session = self._http.ClientSession(connector=self._http.TCPConnector(limit=0), trust_env=bool(getproxies()))
        self._sessions.append(session)
        return session

    def generation(self, settings: GenerationSettings) -> dict[str, Any]:
        """How to generate, in the SDK's words."""
        access = self.access
        return {
            "max_output_tokens": settings.max_tokens,
            "temperature": settings.temperature if access.takes("temperature") else None,
            "seed": settings.seed if settings.temperature and access.takes("seed") else None,
            "stop_sequences": sendable_stops(access, settings) or None,
            "response_logprobs": True if access.top_logprobs else None,
            "logprobs": access.top_logprobs or None,
        }

    async def complete(self, prompt: Sequence[Message], settings: GenerationSettings) -> Answer:
        """See `Client`."""
        with self.told_apart():
            response = await self.client(settings).models.generate_content(model=self.access.model, **content(prompt))
        return read_answer(self.access, response, settings)

    async def stream(self, prompt: Sequence[Message], settings: GenerationSettings, heard: Heard) -> Answer:
        """See `Client`."""
        stream, whole = Stream(self.access, heard), _Whole()
        with stream.reading(), self.told_apart():
            async for chunk in await self.client(settings).models.generate_content_stream(
                model=self.access.model, **content(prompt)
            ):
                stream.is_begun = True
                whole.add(chunk, stream)
        if not whole.is_ended:
            raise stream.cut()
        return read_answer(self.access, whole.response(stream.text), settings)

    @contextmanager
    def told_apart(self) -> Iterator[None]:
        """Turn the SDK's exceptions into failures."""
        access = self.access
        try:
            yield
        except self._errors.APIError as error:
            headers = getattr(error.response, "headers", None) or {}
            raise failure_of(access, Response(error.code, headers, json.dumps(error.details, default=str))) from None
        except Exception as error:  # the HTTP library's own, which one depends on what is installed
            raise lost(access, error) from None

    async def close(self) -> None:
        """See `Client`."""
        for client in self._clients.values():
            await client.aio.aclose()
            client.close()
        for session in self._sessions:
            await session.close()


def content(prompt: Sequence[Message]) -> dict[str, Any]:
    """The turns of a request; a configuration only where there is a system prompt."""
    system = "\n\n".join(message.text for message in prompt if message.role == "system")
    turns = [
        {"role": "model" if message.role == "assistant" else "user", "parts": [{"text": message.text}]}
        for message in prompt
        if message.role != "system"
    ]
    return {"contents": turns, "config": {"system_instruction": system} if system else None}


class _Whole:
    """What the chunks of a stream say beside its text."""

    def __init__(self) -> None:
        self._usage: Any = None
        self._model: str | None = None
        self._feedback: Any = None
        self._reason: Any = None
        self._logprobs: Any = None

    @property
    def is_ended(self) -> bool:
        """Whether it was said why the answer ended, or that there is none."""
        return self._reason is not None or getattr(self._feedback, "block_reason", None) is not None

    def add(self, chunk: Any, stream: Stream) -> None:
        """Take a chunk, and say its pieces. Usage is that of the answer so far."""
        self._usage = chunk.usage_metadata or self._usage
        self._model = chunk.model_version or self._model
        self._feedback = chunk.prompt_feedback or self._feedback
        for candidate in (chunk.candidates or ())[:1]:
            self._reason = candidate.finish_reason or self._reason
            self._logprobs = self._logprobs or candidate.logprobs_result
            for part in (candidate.content and candidate.content.parts) or ():
                stream.say(part.text, is_thought=bool(part.thought))

    def response(self, text: str) -> Any:
        """The same as it would have come in one piece."""
        content = SimpleNamespace(parts=[SimpleNamespace(text=text, thought=False)])
        candidate = SimpleNamespace(finish_reason=self._reason, content=content, logprobs_result=self._logprobs)
        return SimpleNamespace(
            candidates=[candidate] if self._reason is not None else [],
            usage_metadata=self._usage,
            model_version=self._model,
            prompt_feedback=self._feedback,
        )


def read_answer(access: Access, response: Any, settings: GenerationSettings) -> Answer:
    """The answer in a response; a prompt that is held back has a reason and no candidate."""
    usage, model = _usage(response.usage_metadata), response.model_version or access.model
    if not response.candidates:
        feedback = response.prompt_feedback
        if feedback is None or feedback.block_reason is None:
            raise lost(access, ValueError("the response holds no candidate"))
        return Answer("", "filtered", usage, model)
    candidate = response.candidates[0]
    reason = str(getattr(candidate.finish_reason, "value", None))
    if reason not in _FINISH:
        raise ServiceFailure(f"{access.provider}: the candidate ended for the reason {reason!r}")
    parts = (candidate.content and candidate.content.parts) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    text, finish_reason = cut(text, _FINISH[reason], settings.stop)
    return Answer(text, finish_reason, usage, model, _first_token(candidate))


def _usage(usage: Any) -> Usage | None:
    """Thoughts are billed as output, and counted apart from it."""
    if usage is None:
        return None
    thoughts = usage.thoughts_token_count or 0
    return Usage(
        num_prompt_tokens=(usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
        num_completion_tokens=(usage.candidates_token_count or 0) + thoughts,
        num_cached_tokens=usage.cached_content_token_count or 0,
        num_reasoning_tokens=thoughts,
    )


def _first_token(candidate: Any) -> dict[str, float]:
    result = candidate.logprobs_result
    if result is None or not result.top_candidates:
        return {}
    return {entry.token: entry.log_probability for entry in result.top_candidates[0].candidates or []}


def build_client(access: Access) -> GeminiClient:
    """The client; see `bench.api.connect.connect`."""
    return GeminiClient(access)
