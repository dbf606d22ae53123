"""Percentiles and the interval of a median against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import quantile_test

from bench.stats.medians import median_interval, quantile

VALUES = [0.31, 2.5, 0.4, 0.4, 9.0, 1.75, 0.02, 3.25, 0.6, 7.5, 1.5, 0.9, 0.95]


@pytest.mark.parametrize("num", [1, 2, 7, 13])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_percentiles_are_numpys(num: int, share: float) -> None:
    assert quantile(VALUES[:num], share) == pytest.approx(np.quantile(VALUES[:num], share))


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


@pytest.mark.parametrize("num", [6, 7, 9, 10, 13, 40, 200, 3000])
def test_the_interval_of_the_median_is_scipys(num: int) -> None:
    values = np.random.default_rng(num).exponential(size=num)
    expected = quantile_test(values, p=0.5).confidence_interval(confidence_level=0.95)
    assert median_interval(list(values)) == pytest.approx((expected.low, expected.high))


def test_fewer_than_six_values_say_nothing_of_the_median() -> None:
    assert median_interval(VALUES[:5]) is None
    assert median_interval(VALUES[:6]) == (min(VALUES[:6]), max(VALUES[:6]))
