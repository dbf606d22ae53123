"""A provider on the loopback interface: OpenAI's, Anthropic's and Gemini's wire formats over real HTTP.

What it answers is a function of the prompt; which requests go wrong, and how, a function of the prompt, of how often
it came, and of a seed. It counts what it would charge for.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from api_stream import (
    STREAM_FAULTS,
    Frames,
    Piece,
    Tempo,
    chat_frames,
    cut_in_pieces,
    data,
    event,
    gemini_frames,
    message_frames,
    send_frames,
)

FAULTS = ("429", "429-after", "500", "529", "reset", "cut", "slow", "invalid-json", "empty")
_STATUS = {"429": 429, "429-after": 429, "500": 500, "529": 529}
KEY = "sk-test-0123456789abcdef"


@dataclass(frozen=True)
class Faults:
    """Which requests go wrong: a `share` of them, of these `kinds`, never more than `in_a_row` for one prompt."""

    share: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    in_a_row: int = 4
    seed: int = 0
    slow_s: float = 30.0

    def of(self, prompt: str, attempt: int) -> str | None:
        chance = random.Random(f"{self.seed}:{attempt}:{prompt}")
        if attempt % (self.in_a_row + 1) == self.in_a_row or chance.random() >= self.share:
            return None
        return chance.choice(self.kinds)


@dataclass
class Counts:
    """What the provider saw: `billed` are the answers sent off whole, by prompt; `lost` are those that were not."""

    requests: int = 0
    billed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    most_at_once: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Said:
    """An answer: its text, why it ended, and log-probabilities of its first token, if any.

    Attributes:
        num_tokens: as counted and charged, without reasoning; None: a word is one, and three are reasoning's.
        thought: is streamed before the text.
    """

    text: str
    reason: str = "stop"
    first_token: Mapping[str, float] = field(default_factory=dict)
    num_tokens: int | None = None
    thought: str = ""


@dataclass(frozen=True)
class Echo:
    """A prompt's tokens as a server with echo returns them; the first has no log-probability."""

    tokens: list[str]
    offsets: list[int]
    logprobs: list[float | None]
    tops: list[dict[str, float] | None]


class ApiServer:
    """The provider, in a thread. Use it as a context manager.

    Attributes:
        answer: a prompt's text (the messages' texts, one a line) to what is said.
        echo: a text, how many tokens to generate, and whether to say the text back, to the tokens that are returned.
        latency_s: how long an answer takes.
        tempo: a prompt's text to when the pieces of a streamed answer are sent.
        has_usage: streams tell how many tokens there were, where that is asked for.
        key: what must be sent with a request; None: anything.
        quota: answers until the account is empty.
        most_at_once: more requests than these are turned away with 429.
    """

    def __init__(self, answer: Callable[[str], Said] = lambda prompt: Said(f"echo {prompt}")) -> None:
        self.answer = answer
        self.echo: Callable[[str, int, bool], Echo] | None = None
        self.faults = Faults()
        self.latency_s = 0.0
        self.tempo: Callable[[str], Tempo] = lambda _: Tempo()
        self.has_usage = True
        self.key: str | None = KEY
        self.quota: int | None = None
        self.most_at_once: int | None = None
        self.counts = Counts()
        self.attempts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
                data = await reader.readexactly(int(headers.get("content-length", "0")))
                self.counts.under_way += 1
                self.counts.most_at_once = max(self.counts.most_at_once, self.counts.under_way)
                try:
                    goes_on = await self._respond(request, headers, data, writer)
                finally:
                    self.counts.under_way -= 1
                if not goes_on:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _respond(self, request: str, headers: dict[str, str], data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False if the connection is to be closed."""
        return await self._handle(request.split()[1], headers, json.loads(data), writer)

    async def _handle(
        self, path: str, headers: dict[str, str], body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False if the connection is to be closed."""
        self.counts.requests += 1
        self.counts.headers.append(headers)
        self.counts.bodies.append(body)
        wire = wire_of(path)
        prompt = wire.prompt(body)
        if (refusal := self.refusal(headers, prompt)) is not None:
            status, words = refusal
            return await send(writer, status, wire.error(status, words))
        attempt, self.attempts[prompt] = self.attempts[prompt], self.attempts[prompt] + 1
        fault = self.faults.of(prompt, attempt)
        self.counts.faults[fault or "none"] += 1
        if fault in _STATUS:
            extra = {"retry-after": "0.01"} if fault == "429-after" else {}
            return await send(writer, _STATUS[fault], wire.error(_STATUS[fault], "not now"), extra)
        if fault == "reset":
            self.counts.lost += 1
            writer.transport.abort()
            return False
        await asyncio.sleep(self.latency_s)
        if isinstance(wire, _Completions):
            assert self.echo is not None
            return await send(
                writer, 200, wire.answer(body, self.echo(prompt, body["max_tokens"], bool(body.get("echo"))))
            )
        said = Said("") if fault == "empty" else self.answer(prompt)
        if is_stream(path, body):
            return await self._stream(wire, path, body, fault, said, writer)
        return await self._say(wire, path, body, fault, said, writer)

    async def _say(
        self, wire: _Chat, path: str, body: dict[str, Any], fault: str | None, said: Said, writer: asyncio.StreamWriter
    ) -> bool:
        """Send an answer in one piece."""
        prompt = wire.prompt(body)
        usage = usage_of(prompt, said)
        payload = json.dumps(wire.answer(body.get("model", path), said, usage)).encode()
        if fault in ("cut", "slow", "invalid-json"):
            self.counts.lost += 1
            return await self._spoil(fault, payload, writer)
        self.charge(prompt, usage, is_empty=fault == "empty")
        return await send_bytes(writer, 200, payload)

    def refusal(self, headers: Mapping[str, str], prompt: str) -> tuple[int, str] | None:
        """Why a request is turned away at the door, if it is."""
        sent = headers.get("authorization", "").removeprefix("Bearer ")
        keys = (sent, headers.get("x-api-key"), headers.get("x-goog-api-key"))
        if self.key is not None and self.key not in keys:
            return 401, f"wrong key: {' '.join(key for key in keys if key)}"
        if self.quota is not None and self.counts.billed.total() >= self.quota:
            return 429, "insufficient_quota: you have spent it all"
        if self.most_at_once is not None and self.counts.under_way > self.most_at_once:
            return 429, "too many requests"
        return (400, f"bad request: {prompt}") if prompt.startswith("unfit") else None

    async def _spoil(self, fault: str, payload: bytes, writer: asyncio.StreamWriter) -> bool:
        """Send half of an answer: as if it were all, and the connection is closed, or nothing more comes for long."""
        half = payload[: len(payload) // 2]
        if fault == "invalid-json":
            return await send_bytes(writer, 200, half)
        writer.write(_head(200, len(payload), {}) + half)
        await writer.drain()
        await asyncio.sleep(self.faults.slow_s if fault == "slow" else 0)
        return False

    async def _stream(
        self,
        wire: _Chat,
        path: str,
        body: dict[str, Any],
        fault: str | None,
        said: Said,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Send an answer in pieces, or as much of it as the fault leaves."""
        prompt = wire.prompt(body)
        tempo, usage = self.tempo(prompt), usage_of(prompt, said)
        whole = wire.answer(body.get("model", path), said, usage)
        has_usage = self.has_usage and "include_usage" in (body.get("stream_options") or {})
        pieces = [(text, True) for text in cut_in_pieces(said.thought, tempo.words_per_piece)]
        pieces += [(text, False) for text in cut_in_pieces(said.text, tempo.words_per_piece)]
        frames = wire.frames(whole, pieces, has_usage)
        if fault in STREAM_FAULTS:
            self.counts.lost += 1
            frames = (
                replace(frames, closing=[wire.error_frame(503, "overloaded_error")]) if fault == "error" else frames
            )
            return await send_frames(frames, tempo, writer, fault=fault, slow_s=self.faults.slow_s)
        self.charge(prompt, usage, is_empty=fault == "empty")
        return await send_frames(frames, tempo, writer)

    def charge(self, prompt: str, usage: Mapping[str, int], *, is_empty: bool) -> None:
        self.counts.billed[prompt] += not is_empty
        self.counts.prompt_tokens += usage["prompt"]
        self.counts.cached_tokens += usage["cached"]
        self.counts.completion_tokens += usage["completion"]


def usage_of(prompt: str, said: Said) -> dict[str, int]:
    words = len(prompt.split())
    if said.num_tokens is not None:
        return {"prompt": words, "cached": 0, "completion": said.num_tokens, "reasoning": 0}
    completion = len(said.text.split()) + 3 if said.text else 0
    return {"prompt": words, "cached": words // 4, "completion": completion, "reasoning": min(3, completion)}


async def send(writer: asyncio.StreamWriter, status: int, body: object, headers: Mapping[str, str] = {}) -> bool:
    return await send_bytes(writer, status, json.dumps(body).encode(), headers)


async def send_bytes(
    writer: asyncio.StreamWriter, status: int, payload: bytes, headers: Mapping[str, str] = {}
) -> bool:
    writer.write(_head(status, len(payload), headers) + payload)
    await writer.drain()
    return True


def _head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
    lines = {"content-type": "application/json", "content-length": str(length), **headers}
    return "\r\n".join([f"HTTP/1.1 {status} X", *map(": ".join, lines.items()), "", ""]).encode()


class _Chat:
    """OpenAI's chat completions."""

    def prompt(self, body: dict[str, Any]) -> str:
        return "\n".join(message["content"] for message in body["messages"])

    def error(self, status: int, words: str) -> object:
        return {"error": {"message": words, "type": "error", "code": words.partition(":")[0]}}

    def answer(self, model: str, said: Said, usage: dict[str, int]) -> object:
        tops = [{"token": token, "logprob": value, "bytes": None} for token, value in said.first_token.items()]
        logprobs = {"content": [{**tops[0], "top_logprobs": tops}], "refusal": None} if tops else None
        is_refusal = said.reason == "refusal"
        message = {"role": "assistant", "content": None if is_refusal else said.text}
        message["refusal"] = said.text if is_refusal else None
        reason = {"refusal": "stop", "filtered": "content_filter"}.get(said.reason, said.reason)
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": f"{model}-2026-01-01",
            "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": logprobs}],
            "usage": {
                "prompt_tokens": usage["prompt"],
                "completion_tokens": usage["completion"],
                "total_tokens": usage["prompt"] + usage["completion"],
                "prompt_tokens_details": {"cached_tokens": usage["cached"]},
                "completion_tokens_details": {"reasoning_tokens": usage["reasoning"]},
            },
        }

    def frames(self, whole: Any, pieces: list[Piece], has_usage: bool) -> Frames:
        return chat_frames(whole, pieces, has_usage)

    def error_frame(self, status: int, words: str) -> bytes:
        return data(self.error(status, words))


class _Completions(_Chat):
    """OpenAI's older completions, with echo."""

    def prompt(self, body: dict[str, Any]) -> str:
        return str(body["prompt"])

    def answer(self, body: Any, echo: Any, usage: object = None) -> object:
        logprobs = {
            "tokens": echo.tokens,
            "text_offset": echo.offsets,
            "token_logprobs": echo.logprobs,
            "top_logprobs": echo.tops,
        }
        choice = {"index": 0, "text": "".join(echo.tokens), "finish_reason": "length", "logprobs": logprobs}
        return {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice], "usage": None}


class _Messages(_Chat):
    """Anthropic's messages."""

    def prompt(self, body: dict[str, Any]) -> str:
        return "\n".join([*([body["system"]] if "system" in body else []), super().prompt(body)])

    def error(self, status: int, words: str) -> object:
        return {"type": "error", "error": {"type": "error", "message": words}}

    def answer(self, model: str, said: Said, usage: dict[str, int]) -> object:
        reason = {"stop": "end_turn", "length": "max_tokens", "filtered": "refusal"}.get(said.reason, said.reason)
        return {
            "id": "x",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": said.text}] if said.text else [],
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": usage["prompt"] - usage["cached"],
                "cache_read_input_tokens": usage["cached"],
                "cache_creation_input_tokens": 0,
                "output_tokens": usage["completion"],
                "output_tokens_details": {"thinking_tokens": usage["reasoning"]},
            },
        }

    def frames(self, whole: Any, pieces: list[Piece], has_usage: bool) -> Frames:
        return message_frames(whole, pieces)

    def error_frame(self, status: int, words: str) -> bytes:
        return event({"type": "error", "error": {"type": words, "message": words}})


class _Gemini(_Chat):
    """Gemini's generateContent."""

    def prompt(self, body: dict[str, Any]) -> str:
        contents = [*([body["systemInstruction"]] if "systemInstruction" in body else []), *body["contents"]]
        return "\n".join(part["text"] for content in contents for part in content["parts"])

    def error(self, status: int, words: str) -> object:
        return {"error": {"code": status, "message": words, "status": "ERROR", "details": []}}

    def answer(self, model: str, said: Said, usage: dict[str, int]) -> object:
        metadata = {
            "promptTokenCount": usage["prompt"],
            "cachedContentTokenCount": usage["cached"],
            "candidatesTokenCount": usage["completion"] - usage["reasoning"],
            "thoughtsTokenCount": usage["reasoning"],
        }
        if said.reason == "filtered":
            return {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": metadata}
        reason = {"length": "MAX_TOKENS", "refusal": "SAFETY"}.get(said.reason, "STOP")
        tops = [{"token": token, "logProbability": value} for token, value in said.first_token.items()]
        candidate = {
            "content": {"role": "model", "parts": [{"text": said.text}] if said.text else []},
            "finishReason": reason,
            **({"logprobsResult": {"topCandidates": [{"candidates": tops}]}} if tops else {}),
        }
        return {"candidates": [candidate], "usageMetadata": metadata, "modelVersion": "gemini-x-001"}

    def frames(self, whole: Any, pieces: list[Piece], has_usage: bool) -> Frames:
        return gemini_frames(whole, pieces)


def is_stream(path: str, body: Mapping[str, Any]) -> bool:
    return bool(body.get("stream")) or "streamGenerateContent" in path


def wire_of(path: str) -> _Chat:
    if path.endswith("/chat/completions"):
        return _Chat()
    if path.endswith("/completions"):
        return _Completions()
    return _Messages() if path.endswith("/messages") else _Gemini()
