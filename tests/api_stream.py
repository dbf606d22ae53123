"""How the tests' provider streams: server-sent events of OpenAI, Anthropic and Gemini, at programmed moments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STREAM_FAULTS = ("cut", "slow", "invalid-json", "error", "ended")
"""What can go wrong in the midst of a stream: the connection is lost, nothing more comes for long, a frame is no JSON,
a frame is an error, the stream ends as if it were whole."""


@dataclass(frozen=True)
class Tempo:
    """When pieces are sent.

    Attributes:
        first_s: from the request to the first.
        gap_s: between two.
        words_per_piece: tokens, that is words, in each.
    """

    first_s: float = 0.0
    gap_s: float = 0.0
    words_per_piece: int = 1


@dataclass(frozen=True)
class Frames:
    """What is streamed, in order; each piece at its moment, all else at once with its neighbour."""

    opening: Sequence[bytes]
    pieces: Sequence[bytes]
    closing: Sequence[bytes]


def cut_in_pieces(text: str, num_words: int) -> list[str]:
    """The text in pieces of so many words."""
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    return ["".join(words[start : start + num_words]) for start in range(0, len(words), num_words)] if text else []


async def send_frames(
    frames: Frames, tempo: Tempo, writer: asyncio.StreamWriter, *, fault: str | None = None, slow_s: float = 0.0
) -> bool:
    """Stream; moments go by the first, so that what one is late by is not added to the next. False: connection lost."""
    clock = asyncio.get_running_loop().time
    began = clock()
    writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for frame in frames.opening:
        _write(writer, frame)
    half = len(frames.pieces) // 2
    for number, frame in enumerate(frames.pieces[:half] if fault else frames.pieces):
        await asyncio.sleep(began + tempo.first_s + number * tempo.gap_s - clock())
        _write(writer, frame)
        await writer.drain()
    if not frames.pieces:
        await asyncio.sleep(began + tempo.first_s - clock())
    if fault in ("cut", "slow"):
        await asyncio.sleep(slow_s if fault == "slow" else 0)
        writer.transport.abort()
        return False
    closing = {"invalid-json": [b'data: {"x": \n\n'], "ended": []}.get(str(fault), frames.closing)
    for frame in closing:
        _write(writer, frame)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return fault is None


def _write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))


def data(value: object) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def event(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\n".encode() + data(value)


Piece = tuple[str, bool]
"""A piece's text, and whether it is a thought."""


def chat_frames(whole: Any, pieces: Sequence[Piece], has_usage: bool) -> Frames:
    """OpenAI's chunks of what would be `whole` in one response; a refusal is streamed as such."""
    choice = whole["choices"][0]
    frame = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": whole["model"]}

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        return data(
            {
                **frame,
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": choice["logprobs"]}],
            }
        )

    key = "refusal" if choice["message"]["refusal"] else "content"
    deltas = [{"reasoning_content" if is_thought else key: text} for text, is_thought in pieces]
    closing = [chunk({}, choice["finish_reason"])]
    closing += [data({**frame, "choices": [], "usage": whole["usage"]})] if has_usage else []
    opening = [chunk({"role": "assistant", "content": ""})]
    return Frames(opening, [chunk(delta) for delta in deltas], [*closing, b"data: [DONE]\n\n"])


def message_frames(whole: Any, pieces: Sequence[Piece]) -> Frames:
    """Anthropic's events; the usage at the start knows little of the output."""
    usage = {**whole["usage"], "output_tokens": 1}
    usage.pop("output_tokens_details")
    start = {**whole, "content": [], "stop_reason": None, "usage": usage}
    opening = [
        event({"type": "message_start", "message": start}),
        event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        event({"type": "ping"}),
    ]
    says = [
        {"type": "thinking_delta", "thinking": text} if is_thought else {"type": "text_delta", "text": text}
        for text, is_thought in pieces
    ]
    deltas = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in says]
    known = {name: whole["usage"][name] for name in ("output_tokens", "output_tokens_details")}
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    closing = [
        event({"type": "content_block_stop", "index": 0}),
        event({"type": "message_delta", "delta": delta, "usage": known}),
        event({"type": "message_stop"}),
    ]
    return Frames(opening, [event(one) for one in deltas], closing)


def gemini_frames(whole: Any, pieces: Sequence[Piece]) -> Frames:
    """Gemini's chunks: the usage grows, and the reason stands in the last, which has no text here."""
    if "candidates" not in whole:
        return Frames([], [], [data(whole)])
    candidate = whole["candidates"][0]
    few = {**whole["usageMetadata"], "candidatesTokenCount": 1}
    rest = {name: value for name, value in candidate.items() if name not in ("content", "finishReason")}

    def chunk(text: str, is_thought: bool) -> bytes:
        content = {"role": "model", "parts": [{"text": text, "thought": is_thought}]}
        return data({**whole, "candidates": [{**rest, "content": content}], "usageMetadata": few})

    last = {**rest, "content": {"role": "model", "parts": []}, "finishReason": candidate["finishReason"]}
    return Frames([], [chunk(*piece) for piece in pieces], [data({**whole, "candidates": [last]})])
