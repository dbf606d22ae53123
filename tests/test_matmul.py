from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bench.telemetry import matmul
from bench.telemetry.matmul import MatmulProbe

CPU = torch.device("cpu")
SHAPES = [(6, 4), (2, 8)]
TOKENS = 10
OPERATIONS = 2 * TOKENS * (6 * 4 + 2 * 8)


class Clock:
    """Time that passes only while a product is made: what `durations` says next, or a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.durations: Iterator[float] = iter(())
        self.products: list[tuple[torch.Size, torch.Size, torch.dtype]] = []
        monkeypatch.setattr(matmul.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.nn.functional, "linear", self.linear)

    def linear(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        self.now += next(self.durations, 1.0)
        self.products.append((x.shape, weight.shape, x.dtype))
        assert x.dtype == weight.dtype
        assert torch.is_inference_mode_enabled()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_rate_is_all_shapes_operations_over_each_ones_mean_time_after_a_first_that_does_not_count(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_REPEATS", 3)
    clock.durations = iter([50.0, 1.0, 2.0, 3.0, 70.0, 4.0, 5.0, 9.0])
    probe = MatmulProbe(SHAPES, TOKENS, torch.bfloat16, CPU)
    probe.measure()
    assert probe.rates == [OPERATIONS / (2.0 + 6.0)]
    assert probe.spent_s == 144.0
    assert set(clock.products) == {
        (torch.Size((10, 4)), torch.Size((6, 4)), torch.bfloat16),
        (torch.Size((10, 8)), torch.Size((2, 8)), torch.bfloat16),
    }


def measure(probe: MatmulProbe, clock: Clock, at_s: float, product_s: float) -> None:
    """Take a measurement that ends at a moment, of products that take so long each."""
    num_products = (1 + matmul._REPEATS) * len(SHAPES)
    clock.durations = iter([product_s] * num_products)
    clock.now = at_s - product_s * num_products
    probe.measure()


def test_the_rate_is_the_mean_over_time_whatever_the_number_of_measurements(clock: Clock) -> None:
    """A machine that slows down evenly for a while and is measured at even and at uneven intervals."""
    probe = MatmulProbe(SHAPES, TOKENS, torch.float32, CPU)
    measure(probe, clock, 2000.0, 1.0)
    assert probe.flops_per_s == OPERATIONS / 2
    rates = [OPERATIONS / 2, OPERATIONS / 4, OPERATIONS / 5]
    for at_s, product_s in ((2100.0, 2.0), (2400.0, 2.5)):
        measure(probe, clock, at_s, product_s)
    assert probe.rates == rates
    assert probe.flops_per_s == pytest.approx(OPERATIONS * (0.375 * 100 + 0.225 * 300) / 400)
    often = MatmulProbe(SHAPES, TOKENS, torch.float32, CPU)
    for at_s in (2000.0, 2025.0, 2090.0, 2100.0, 2300.0, 2400.0):
        measure(often, clock, at_s, OPERATIONS / 2 / np.interp(at_s, [2000, 2100, 2400], rates))
    assert often.flops_per_s == pytest.approx(probe.flops_per_s)


def test_it_is_measured_again_only_after_a_while(clock: Clock) -> None:
    probe = MatmulProbe(SHAPES, TOKENS, torch.float32, CPU)
    probe.measure_sometimes()
    assert len(probe.rates) == 1
    clock.now += 3.0
    probe.measure_sometimes()
    assert len(probe.rates) == 1
    clock.now += 1.5
    probe.measure_sometimes()
    assert len(probe.rates) == 2


def test_a_real_measurement_is_a_rate_that_this_machine_can_have() -> None:
    probe = MatmulProbe([(64, 64)], 64, torch.float32, CPU)
    probe.measure()
    assert 1e6 < probe.flops_per_s < 1e15
    assert 0 < probe.spent_s < 10
