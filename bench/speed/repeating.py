"""Repeats something until its time is known well enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.speed.spec import SpeedSpec
from bench.stats.medians import median_interval, quantile


@dataclass(frozen=True, slots=True)
class Repeats:
    """Seconds of every repeat, and of every step within; warm-up is not among them.

    Attributes:
        spans: for each repeat, the moments between which its steps were done: one more than there are steps.
        is_tight: whether the median's interval came out as narrow as was asked.
    """

    warm_up_s: float
    spans: tuple[tuple[float, ...], ...]
    is_tight: bool

    @property
    def repeat_s(self) -> list[float]:
        """Seconds of each repeat."""
        return [moments[-1] - moments[0] for moments in self.spans]

    @property
    def step_s(self) -> list[float]:
        """Seconds of each step of all repeats."""
        return [end - begin for moments in self.spans for begin, end in pairwise(moments)]


def repeat(once: Callable[[], Sequence[float]], spec: SpeedSpec) -> Repeats:
    """Call `once`, which returns the moments of its steps, until the median of its seconds is known well enough.

    The first call is warm-up. Then it is called `repeats` times, and for `min_s`, and until the interval of the median
    is `tightness` of it to either side or `max_s` have been spent.
    """
    first = once()
    spans: list[tuple[float, ...]] = []
    spent_s = 0.0
    while True:
        moments = tuple(once())
        spans.append(moments)
        spent_s += moments[-1] - moments[0]
        if len(spans) < spec.repeats or spent_s < spec.min_s:
            continue
        made = Repeats(first[-1] - first[0], tuple(spans), _is_tight(spans, spec.tightness))
        if made.is_tight or spent_s >= spec.max_s:
            return made


def _is_tight(spans: Sequence[Sequence[float]], tightness: float) -> bool:
    seconds = [moments[-1] - moments[0] for moments in spans]
    ends = median_interval(seconds)
    return ends is not None and (ends[1] - ends[0]) / 2 <= tightness * quantile(seconds, 0.5)


def summarise(seconds: Sequence[float]) -> dict[str, Any]:
    """Percentiles, the median's interval, and the values that they are of."""
    ends = median_interval(seconds)
    return {
        **percentiles(seconds),
        "median_ci95": None if ends is None else list(ends),
        "values": list(seconds),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, Any]:
    """Percentiles alone, of values that depend on each other or are kept elsewhere."""
    shares = {f"p{share}": quantile(seconds, share / 100) for share in (50, 90, 99)}
    return {**shares, "num": len(seconds)}
