"""Medians and percentiles of measured times, which are skewed: nothing is assumed of their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

_LEVEL = Fraction(95, 100)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie, between neighbours linearly (Hyndman and Fan's type 7)."""
    if not values:
        raise ValueError("no values have no quantile")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % interval of the median: two of the ordered values, by the sign test; None of fewer than 6 values.

    As many values are left out at each end as leave the chance that the median lies beyond either below 2.5 %.
    """
    ordered = sorted(values)
    num = len(ordered)
    left_out, ways = 0, 1  # in whole numbers: of thousands of values, powers of 2 are beyond any float
    tail, most = 1, (1 - _LEVEL) / 2 * 2**num
    while tail <= most:
        left_out += 1
        ways = ways * (num - left_out + 1) // left_out
        tail += ways
    return (ordered[left_out - 1], ordered[num - left_out]) if left_out else None
