"""What a client of an API gets and gives; the pool knows providers by this alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.completer import GenerationSettings
from bench.records import FinishReason, Loglikelihood, Message


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts and bills them.

    Attributes:
        num_prompt_tokens: all of the prompt, cached or not.
        num_cached_tokens: those of them read from the provider's cache.
        num_cache_write_tokens: those of them that were written to it at a price of their own.
        num_completion_tokens: all that was generated, reasoning included.
        num_reasoning_tokens: those of them that are not in the text.
    """

    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_cached_tokens: int = 0
    num_cache_write_tokens: int = 0
    num_reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client makes of a response.

    Attributes:
        usage: None where the provider says nothing of it.
        model: the model's name as the provider reports it; a dated snapshot where an alias was asked for.
        first_token: log-probability of the most probable first tokens, where they were asked for.
        loglikelihood: of `text` as a continuation, where that was asked for.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage | None
    model: str
    first_token: Mapping[str, float] = field(default_factory=dict)
    loglikelihood: Loglikelihood | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Where and how a client is to ask.

    Attributes:
        provider: the preset's name, for messages.
        model: the provider's name of the model.
        key: the secret; it stands in no representation of this object.
        key_name: the environment variable that it came from.
        omit: settings that this model does not take, such as `temperature`.
        top_logprobs: of how many alternatives of the first token to ask the log-probability.
        extra_body: what else to put into each request.
    """

    provider: str
    model: str
    base_url: str
    key: str = field(repr=False)
    key_name: str
    timeout_s: float
    max_tokens_key: str = "max_tokens"
    max_stops: int = 4
    omit: frozenset[str] = frozenset()
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int = 0

    def takes(self, setting: str) -> bool:
        """Whether the model may be told a setting."""
        return setting not in self.omit


class Heard(Protocol):
    """Is called with each piece of an answer as it comes."""

    def __call__(self, text: str, *, is_thought: bool = False) -> None:
        """Hear a piece, which is not empty; a thought is no part of the answer's text."""


class Client(Protocol):
    """One provider's protocol; made and used in one event loop."""

    async def complete(self, prompt: Sequence[Message], settings: GenerationSettings) -> Answer:
        """Ask once, without trying again.

        Raises:
            ApiFailure: there is no answer; the kind of failure says what to do about it.
        """

    async def stream(self, prompt: Sequence[Message], settings: GenerationSettings, heard: Heard) -> Answer:
        """The same, with the answer sent in pieces; what is returned is what `complete` returns.

        Raises:
            ApiFailure: there is no whole answer. One that had begun may have been made, and charged.
        """

    async def close(self) -> None:
        """Close the connections."""


def sendable_stops(access: Access, settings: GenerationSettings) -> list[str]:
    """The stops that providers take: not blank, and only so many. `cut` sees to the others."""
    if not access.takes("stop"):
        return []
    return [stop for stop in settings.stop if stop.strip()][: access.max_stops]


def cut(text: str, finish_reason: FinishReason, stops: Sequence[str]) -> tuple[str, FinishReason]:
    """End a completion before the first of its stops, whether or not the provider has.

    >>> cut("A. Question:", "length", ["."])
    ('A', 'stop')
    """
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    if not places:
        return text, finish_reason
    return text[: min(places)], "stop" if finish_reason == "length" else finish_reason
