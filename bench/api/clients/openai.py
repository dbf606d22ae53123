"""OpenAI's chat completions, and everyone who speaks them, through OpenAI's own SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from bench.api.contract import Access, Answer, Heard, Usage, cut, sendable_stops
from bench.api.failures import ServiceFailure, lost, told_apart
from bench.api.streams import Stream
from bench.completer import GenerationSettings
from bench.errors import MissingPackageError
from bench.records import FinishReason, Message

# Beside OpenAI's own: `model_length` is Mistral's, `sensitive` Zhipu's.
_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "filtered",
    "model_length": "length",
    "sensitive": "filtered",
}


class OpenAIClient:
    """Asks for chat completions, one at a time."""

    def __init__(self, access: Access) -> None:
        try:
            import openai

            http_client = openai.DefaultAioHttpClient()  # less work a request than httpx
        except (ImportError, RuntimeError):  # the SDK, or aiohttp
            raise MissingPackageError(access.provider, "openai") from None
        self.sdk = openai
        self.access = access
        # What the SDK would take from the environment is said here: its base URL, and an organisation whose name is
        # nobody else's business. The retries are ours.
        is_openai = access.key_name == "OPENAI_API_KEY"
        self.client = openai.AsyncOpenAI(
            api_key=access.key or "none",
            base_url=access.base_url,
            max_retries=0,
            timeout=access.timeout_s,
            http_client=http_client,
            default_headers={} if is_openai else {"OpenAI-Organization": openai.omit, "OpenAI-Project": openai.omit},  # type: ignore[dict-item]
        )

    def body(self, prompt: Sequence[Message], settings: GenerationSettings) -> dict[str, Any]:
        """A request but for the model."""
        access = self.access
        # What goes into the body as it is spares the SDK's walk through it, a fifth of a request's work here.
        messages = [{"role": message.role, "content": message.text} for message in prompt]
        body: dict[str, Any] = {"messages": messages, access.max_tokens_key: settings.max_tokens}
        if access.takes("temperature"):
            body["temperature"] = settings.temperature
        if stops := sendable_stops(access, settings):
            body["stop"] = stops
        if settings.temperature and access.takes("seed"):
            body["seed"] = settings.seed
        if access.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": access.top_logprobs}
        return {**body, **access.extra_body}

    async def complete(self, prompt: Sequence[Message], settings: GenerationSettings) -> Answer:
        """See `Client`."""
        access = self.access
        with told_apart(access, self.sdk):
            response = await self.client.chat.completions.create(
                model=access.model, messages=[], extra_body=self.body(prompt, settings)
            )
        return read_answer(access, response, settings)

    async def stream(self, prompt: Sequence[Message], settings: GenerationSettings, heard: Heard) -> Answer:
        """See `Client`. Usage is asked for, unless `extra_body` says `stream_options: null`."""
        access, stream, whole = self.access, Stream(self.access, heard), _Whole()
        body = {"stream_options": {"include_usage": True}, **self.body(prompt, settings)}
        if body["stream_options"] is None:
            del body["stream_options"]
        with stream.reading(), told_apart(access, self.sdk):
            async with await self.client.chat.completions.create(
                model=access.model, messages=[], stream=True, extra_body=body
            ) as chunks:
                async for chunk in chunks:
                    stream.is_begun = True
                    whole.add(chunk, stream)
        if whole.reason is None:
            raise stream.cut()
        return read_answer(access, whole.response(stream.text), settings)

    async def close(self) -> None:
        """See `Client`."""
        await self.client.close()


class _Whole:
    """What the chunks of a stream say beside its text; `reason` is None until the completion has ended."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._usage: Any = None
        self._model: str | None = None
        self._logprobs: Any = None
        self._refusal = ""

    def add(self, chunk: Any, stream: Stream) -> None:
        """Take a chunk, and say its piece."""
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        for choice in chunk.choices or ():
            delta = choice.delta
            self._logprobs = self._logprobs or choice.logprobs
            self.reason = choice.finish_reason or self.reason
            if delta is None:
                continue
            # DeepSeek, vLLM and others name thoughts one way, OpenRouter and newer vLLM the other.
            stream.say(getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None), is_thought=True)
            stream.say(delta.content)
            if refusal := getattr(delta, "refusal", None):
                self._refusal += refusal

    def response(self, text: str) -> Any:
        """The same as it would have come in one piece."""
        message = SimpleNamespace(content=text, refusal=self._refusal or None)
        choice = SimpleNamespace(message=message, finish_reason=self.reason, logprobs=self._logprobs)
        return SimpleNamespace(choices=[choice], usage=self._usage, model=self._model)


def read_answer(access: Access, response: Any, settings: GenerationSettings) -> Answer:
    """The answer in a response; the SDK does not check that anything is in it."""
    choices = getattr(response, "choices", None)
    if not choices or choices[0].message is None:
        raise lost(access, ValueError("the response holds no completion"))
    choice, message = choices[0], choices[0].message
    text, reason = message.content or "", choice.finish_reason
    usage = usage_of(response.usage)
    if getattr(message, "refusal", None):
        return Answer(message.refusal, "refusal", usage, response.model or access.model)
    if reason not in _FINISH:
        raise ServiceFailure(f"{access.provider}: the completion ended for the reason {reason!r}")
    text, finish_reason = cut(text, _FINISH[reason], settings.stop)
    return Answer(text, finish_reason, usage, response.model or access.model, _first_token(choice))


def usage_of(usage: Any) -> Usage | None:
    """The tokens as OpenAI counts them."""
    if usage is None:
        return None
    prompt = usage.prompt_tokens_details
    completion = usage.completion_tokens_details
    return Usage(
        num_prompt_tokens=usage.prompt_tokens or 0,
        num_completion_tokens=usage.completion_tokens or 0,
        num_cached_tokens=(prompt and prompt.cached_tokens) or 0,
        num_cache_write_tokens=(prompt and getattr(prompt, "cache_write_tokens", None)) or 0,
        num_reasoning_tokens=(completion and completion.reasoning_tokens) or 0,
    )


def _first_token(choice: Any) -> dict[str, float]:
    content = getattr(choice.logprobs, "content", None)
    if not content:
        return {}
    found: dict[str, float] = {}
    for entry in content[0].top_logprobs or [content[0]]:
        found.setdefault(entry.token, entry.logprob)
    return found


def build_client(access: Access) -> OpenAIClient:
    """The client; see `bench.api.connect.connect`."""
    return OpenAIClient(access)
