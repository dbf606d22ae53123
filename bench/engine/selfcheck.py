"""The start-up self-check: a few real requests, packed and alone, must agree, or the packed way is refused."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.engine.forward import Forward
from bench.engine.kinds import CAUSAL, Kind
from bench.engine.pack import Budget, TokenRequest
from bench.engine.scorer import Scorer
from bench.records import Loglikelihood

_HEAD, _TAIL = 24, 20  # tokens kept of a long request's two ends: enough to share, short enough to start soon

TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.4}
"""Largest |difference| of a continuation token's log-probability between packed and alone, by dtype.

Rounding alone stays well below; attention that ignores the tree is off by 0.3 to 0.6 in fp32 already."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """Result of the check: the largest difference per continuation token, and what was allowed."""

    max_difference: float
    tolerance: float

    @property
    def is_passed(self) -> bool:
        """Whether the differences are within rounding."""
        return self.max_difference <= self.tolerance


def choose_requests(requests: Sequence[TokenRequest], num: int = CAUSAL.num_checked) -> list[TokenRequest]:
    """Take `num` neighbouring requests that forward different tokens, shortened: they share something and then part."""
    chosen: dict[Hashable, TokenRequest] = {}
    for request in requests:
        short = request.shortened(_HEAD, _TAIL)
        if short is not None:
            chosen.setdefault(short.forwarded, short)
        if len(chosen) == num:
            break
    return list(chosen.values())


def check_forward(
    forward: Forward, requests: Sequence[TokenRequest], dtype: str, kind: Kind[Any] = CAUSAL
) -> SelfCheck:
    """Score `requests`, chosen by `choose_requests`, with `forward` and alone, and compare.

    Args:
        forward: what is checked.
        requests: what it is checked on.
        dtype: the model's.
        kind: the model's.
    """
    with forward.plain() as model:
        alone = kind.score_alone(model, requests)
    num_tokens = sum(len(request.inputs) for request in requests)
    budget = Budget(tokens=max(16, int(num_tokens * kind.check_share)), rows=num_tokens)
    scorer = Scorer(forward, budget, kind.plan)
    found: dict[int, float] = {}
    for scored in scorer.score(requests, kind.plan(requests, budget), set(range(len(requests)))):
        for index, outcome in scored.outcomes.items():
            found[index] = outcome.value if isinstance(outcome, Loglikelihood) else math.nan
    differences = [
        _difference(found[index], value) / len(request.targets)
        for index, (value, request) in enumerate(zip(alone, requests, strict=True))
    ]
    return SelfCheck(max(differences, default=0.0), TOLERANCE[dtype])


def _difference(packed: float, alone: float) -> float:
    """How far two loglikelihoods are apart; a request without a number is an error in either way, and no difference."""
    if math.isfinite(packed) and math.isfinite(alone):
        return abs(packed - alone)
    return math.inf if math.isfinite(packed) or math.isfinite(alone) else 0.0
