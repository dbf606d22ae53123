"""Anthropic's messages, through its own SDK."""

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

_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class AnthropicClient:
    """Asks for messages, one at a time."""

    def __init__(self, access: Access) -> None:
        try:
            import anthropic

            http_client = anthropic.DefaultAioHttpClient()  # less work a request than httpx
        except (ImportError, RuntimeError):  # the SDK, or aiohttp
            raise MissingPackageError(access.provider, "anthropic") from None
        self.sdk = anthropic
        self.access = access
        self.client = anthropic.AsyncAnthropic(
            api_key=access.key,
            base_url=access.base_url,
            max_retries=0,  # the retries are ours
            timeout=access.timeout_s,
            http_client=http_client,
        )

    def body(self, prompt: Sequence[Message], settings: GenerationSettings) -> dict[str, Any]:
        """A request but for the model and the most tokens."""
        access = self.access
        # What goes into the body as it is spares the SDK's walk through it.
        messages = [{"role": message.role, "content": message.text} for message in prompt if message.role != "system"]
        body: dict[str, Any] = {"messages": messages}
        if system := "\n\n".join(message.text for message in prompt if message.role == "system"):
            body["system"] = system
        if access.takes("temperature"):
            body["temperature"] = (
                settings.temperature
            )  # which the SDK has no argument for, since newer models refuse it
        if stops := sendable_stops(access, settings):
            body["stop_sequences"] = stops
        return {**body, **access.extra_body}

    async def complete(self, prompt: Sequence[Message], settings: GenerationSettings) -> Answer:
        """See `Client`."""
        access = self.access
        with told_apart(access, self.sdk):
            response = await self.client.messages.create(
                model=access.model,
                messages=[],
                max_tokens=settings.max_tokens,
                extra_body=self.body(prompt, settings),
            )
        return read_answer(access, response, settings)

    async def stream(self, prompt: Sequence[Message], settings: GenerationSettings, heard: Heard) -> Answer:
        """See `Client`."""
        access, stream, whole = self.access, Stream(self.access, heard), _Whole()
        with stream.reading(), told_apart(access, self.sdk):
            async with await self.client.messages.create(
                model=access.model,
                messages=[],
                max_tokens=settings.max_tokens,
                stream=True,
                extra_body=self.body(prompt, settings),
            ) as events:
                async for event in events:
                    stream.is_begun = True
                    whole.add(event, stream)
        if whole.response.stop_reason is None:
            raise stream.cut()
        whole.response.content = [SimpleNamespace(type="text", text=stream.text)]
        return read_answer(access, whole.response, settings)

    async def close(self) -> None:
        """See `Client`."""
        await self.client.close()


class _Whole:
    """The message that the events of a stream make, but for its text."""

    def __init__(self) -> None:
        self.response = SimpleNamespace(content=None, usage=None, stop_reason=None, model=None)

    def add(self, event: Any, stream: Stream) -> None:
        """Take an event, and say its piece. Counts of tokens are those so far, and not all of them come again."""
        if event.type == "message_start":
            self.response.usage, self.response.model = event.message.usage, event.message.model
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            stream.say(event.delta.text)
        elif event.type == "content_block_delta" and event.delta.type == "thinking_delta":
            stream.say(event.delta.thinking, is_thought=True)
        elif event.type == "message_delta":
            self.response.stop_reason = event.delta.stop_reason or self.response.stop_reason
            if self.response.usage is not None and event.usage is not None:
                for name, value in event.usage.model_dump(exclude_none=True, exclude={"output_tokens_details"}).items():
                    setattr(self.response.usage, name, value)
                self.response.usage.output_tokens_details = event.usage.output_tokens_details


def read_answer(access: Access, response: Any, settings: GenerationSettings) -> Answer:
    """The answer in a response; the SDK does not check that anything is in it."""
    blocks, usage = getattr(response, "content", None), getattr(response, "usage", None)
    if blocks is None or usage is None:
        raise lost(access, ValueError("the response holds no message"))
    if response.stop_reason not in _FINISH:
        raise ServiceFailure(f"{access.provider}: the message ended for the reason {response.stop_reason!r}")
    text = "".join(block.text for block in blocks if block.type == "text")
    text, finish_reason = cut(text, _FINISH[response.stop_reason], settings.stop)
    return Answer(text, finish_reason, _usage(usage), response.model or access.model)


def _usage(usage: Any) -> Usage:
    """`input_tokens` leaves out what was read from the cache or written to it."""
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    details = getattr(usage, "output_tokens_details", None)
    return Usage(
        num_prompt_tokens=usage.input_tokens + cached + written,
        num_completion_tokens=usage.output_tokens,
        num_cached_tokens=cached,
        num_cache_write_tokens=written,
        num_reasoning_tokens=getattr(details, "thinking_tokens", None) or 0,
    )


def build_client(access: Access) -> AnthropicClient:
    """The client; see `bench.api.connect.connect`."""
    return AnthropicClient(access)
