"""How scores lie on disk: `samples.jsonl`, one JSON object a line.

Every line ends with a checksum of its own bytes, so a line that was torn by a crash or changed afterwards is seen and
scored again rather than believed. Floats are written in Python's shortest form, which reads back bit-equal.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.records import Completion, Score

_LANE_FIELDS = ("values", "completion", "extracted")  # on disk only where they say something
_FIELDS = tuple(field.name for field in fields(Score) if field.name not in _LANE_FIELDS)
_CRC_KEY = b',"crc32":"'
_CRC_LENGTH = len(_CRC_KEY) + len('01234567"}')


@dataclass(frozen=True, slots=True)
class Journal:
    """What a `samples.jsonl` holds.

    Attributes:
        lines: the good lines, each with its newline.
        scores: what they say, in the same order; an id may occur more than once (see `merge`).
        num_damaged_lines: complete lines that were dropped because their checksum does not hold.
        has_torn_end: the last line is incomplete: a write is under way, or was cut short.
    """

    lines: tuple[bytes, ...] = ()
    scores: tuple[Score, ...] = ()
    num_damaged_lines: int = 0
    has_torn_end: bool = False


def encode(score: Score) -> bytes:
    """Return a score's line, newline included; ValueError for NaN and infinities, which are errors and no scores."""
    values = {name: getattr(score, name) for name in _FIELDS}
    values.update({name: found for name in _LANE_FIELDS if (found := getattr(score, name))})
    if score.completion is not None:
        values["completion"] = asdict(score.completion)
    body = json.dumps(values, allow_nan=False, separators=(",", ":")).encode()
    return seal(body)


def seal(body: bytes) -> bytes:
    """A line of a JSON object that is not empty: its checksum put into it as its last value."""
    return b'%b%b%08x"}\n' % (body[:-1], _CRC_KEY, zlib.crc32(body))


def unseal(line: bytes) -> bytes | None:
    """The object of a sealed line without its newline; None if the line is damaged."""
    body, end = line[:-_CRC_LENGTH] + b"}", line[-_CRC_LENGTH:]
    return body if end == b'%b%08x"}' % (_CRC_KEY, zlib.crc32(body)) else None


def decode(line: bytes) -> Score | None:
    """Return the score of a line without its newline; None if the line is damaged."""
    body = unseal(line)
    if body is None:
        return None
    try:
        values: dict[str, Any] = json.loads(body)
        for name in ("loglikelihoods", "is_greedy", "num_choice_chars"):
            values[name] = tuple(values[name])
        if "completion" in values:
            values["completion"] = Completion(**values["completion"])
        return Score(**values)
    except (ValueError, TypeError, KeyError):  # a good checksum over something that is no score of ours
        return None


def parse(data: bytes) -> Journal:
    """Read a journal's bytes, leaving out what is damaged."""
    *complete, rest = data.split(b"\n")
    scores = [decode(line) for line in complete]
    good = [(line + b"\n", score) for line, score in zip(complete, scores, strict=True) if score is not None]
    return Journal(
        lines=tuple(line for line, _ in good),
        scores=tuple(score for _, score in good),
        num_damaged_lines=len(complete) - len(good),
        has_torn_end=bool(rest),
    )


def merge(scores: Iterable[Score]) -> dict[str, Score]:
    """One score an id: a score before an error, the first of several scores, the last of several errors."""
    merged: dict[str, Score] = {}
    for score in scores:
        known = merged.get(score.id)
        if known is None or known.error is not None:
            merged[score.id] = score
    return merged
