"""From the moments of requests to a point's figures. Definitions and their sources: docs/measuring.md.

A failure is never a latency: what has failed is counted by its kind, and is in no figure but the failures and, since
it never meets an objective, the goodput.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.speed.load import Load
from bench.speed.repeating import percentiles, summarise
from bench.speed.spec import Objective

_DIGITS = 6  # of a second: finer than any clock of an event loop is true


@dataclass(frozen=True, slots=True)
class Taken:
    """One request; moments in seconds since its point began.

    Attributes:
        due_s: when it was to be sent.
        sent_s: when it was.
        pieces_s: when each piece of text came, thoughts included.
        end_s: when the stream had ended, or failed.
        num_thoughts: pieces that were thoughts.
        num_prompt_tokens: as the server counts, as all below; None: it does not say.
        num_completion_tokens: with those of reasoning.
        num_cached_tokens: of the prompt.
        num_reasoning_tokens: of the completion.
        cost_usd: None: not known.
        failure: its kind; None: it was answered.
        why: what it failed of.
    """

    due_s: float
    sent_s: float
    pieces_s: tuple[float, ...]
    end_s: float
    num_thoughts: int = 0
    num_prompt_tokens: int | None = None
    num_completion_tokens: int | None = None
    num_cached_tokens: int = 0
    num_reasoning_tokens: int = 0
    cost_usd: float | None = None
    failure: str | None = None
    why: str | None = None

    @property
    def ttft_s(self) -> float:
        """Until the first piece."""
        return self.pieces_s[0] - self.sent_s

    @property
    def latency_s(self) -> float:
        """Until the last piece."""
        return self.pieces_s[-1] - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Of each token after the first; None where it cannot be told: one piece, one token, or none counted.

        Reasoning that is billed and never shown came before the first piece, so it has no part in this.
        """
        if self.num_completion_tokens is None:
            return None
        num_shown = self.num_completion_tokens - (0 if self.num_thoughts else self.num_reasoning_tokens)
        if num_shown < 2 or len(self.pieces_s) < 2:
            return None
        return (self.pieces_s[-1] - self.pieces_s[0]) / (num_shown - 1)

    def meets(self, objective: Objective) -> bool:
        """Whether it was answered within all that was asked; of a single token there is no TPOT, so it keeps to any."""
        if self.failure is not None:
            return False
        pairs = (
            (self.ttft_s, objective.ttft_s),
            (self.tpot_s or 0.0, objective.tpot_s),
            (self.latency_s, objective.latency_s),
        )
        return all(limit is None or found <= limit for found, limit in pairs)

    def record(self) -> dict[str, Any]:
        """Its part of the journal."""
        moments = {name: round(getattr(self, name), _DIGITS) for name in ("due_s", "sent_s", "end_s")}
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {**moments, "pieces_s": [round(moment, _DIGITS) for moment in self.pieces_s], **counts}


_COUNTS = (
    "num_thoughts",
    "num_prompt_tokens",
    "num_completion_tokens",
    "num_cached_tokens",
    "num_reasoning_tokens",
    "cost_usd",
    "failure",
    "why",
)


def read_taken(record: Mapping[str, Any]) -> Taken:
    """A request of the journal."""
    return Taken(**{**record, "pieces_s": tuple(record["pieces_s"])})


def describe_load(load: Load, requests: Sequence[Taken], objective: Objective) -> dict[str, Any]:
    """The figures of a point, of which at least one request was answered."""
    answered = [request for request in requests if request.failure is None]
    duration_s = max(one.end_s for one in requests) - min(one.sent_s for one in requests)
    tpots = [tpot for one in answered if (tpot := one.tpot_s) is not None]
    num_tokens = _total(answered, "num_completion_tokens")
    gaps = [end - begin for one in answered for begin, end in pairwise(one.pieces_s)]
    failures = Counter(one.failure for one in requests if one.failure is not None)
    return {
        "key": load.key,
        "phase": "served",
        "load": load.describe(),
        "prompt_tokens": load.prompt_tokens,
        "completion_tokens": load.completion_tokens,
        "num_requests": len(requests),
        "num_answered": len(answered),
        "failures": dict(failures),
        "why_failed": {str(one.failure): one.why for one in reversed(requests) if one.failure is not None},
        "duration_s": duration_s,
        "ttft_s": summarise([one.ttft_s for one in answered]),
        "itl_s": percentiles(gaps) if gaps else None,
        "tpot_s": summarise(tpots) if tpots else None,
        "latency_s": summarise([one.latency_s for one in answered]),
        "tokens_per_s": None if num_tokens is None else num_tokens / duration_s,
        "requests_per_s": len(answered) / duration_s,
        "goodput": describe_goodput(requests, objective, duration_s),
        "num_pieces": sum(len(one.pieces_s) for one in answered),
        "tokens": {
            "prompt": _total(answered, "num_prompt_tokens"),
            "completion": num_tokens,
            "cached": sum(one.num_cached_tokens for one in answered),
            "reasoning": sum(one.num_reasoning_tokens for one in answered),
        },
        "late_s": percentiles([one.sent_s - one.due_s for one in requests]),
        "most_under_way": _most_under_way(requests),
        "not_measured": _not_measured(answered, tpots, gaps),
        "requests": [one.record() for one in requests],
    }


def describe_goodput(requests: Sequence[Taken], objective: Objective, duration_s: float) -> dict[str, Any] | None:
    """Requests a second that met the objective; None where there is none, or where it asks what cannot be told."""
    asked = objective.model_dump(exclude_none=True)
    answered = [one for one in requests if one.failure is None]
    if not asked or (objective.tpot_s is not None and any(one.num_completion_tokens is None for one in answered)):
        return None
    num_met = sum(one.meets(objective) for one in requests)
    return {"objective": asked, "num_met": num_met, "requests_per_s": num_met / duration_s}


def _total(requests: Sequence[Taken], name: str) -> int | None:
    counts = [getattr(one, name) for one in requests]
    return None if None in counts else sum(counts)


def _most_under_way(requests: Sequence[Taken]) -> int:
    changes = sorted([(one.sent_s, 1) for one in requests] + [(one.end_s, -1) for one in requests])
    under_way = most = 0
    for _, change in changes:
        under_way += change
        most = max(most, under_way)
    return most


def _not_measured(answered: Sequence[Taken], tpots: Sequence[float], gaps: Sequence[float]) -> dict[str, str]:
    """What has no figure, and why."""
    reasons = {}
    if any(one.num_completion_tokens is None for one in answered):
        reasons["tokens_per_s"] = "the server does not say how many tokens it wrote, and no tokenizer is named"
        if not tpots:
            reasons["tpot_s"] = reasons["tokens_per_s"]
    if not tpots and "tpot_s" not in reasons:
        reasons["tpot_s"] = "no answer came in more than one piece" if not gaps else "no answer has more than one token"
    if not gaps:
        reasons["itl_s"] = "no answer came in more than one piece"
    return reasons
