"""The rate of matrix products: what the floor is measured against.

Scoring a transformer is matrix products and little else, so the time a job cannot go below on this machine is its
floating-point operations divided by the rate at which this machine multiplies matrices of the model's own shapes in
the model's own dtype. That rate is measured here, in the process that scores, before, during and after scoring,
because clocks move and neighbours come and go; the time it takes is not counted as scoring. Work done in a span of time
is compared with the mean rate over that span.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

_REPEATS = 3
_EVERY_S = 4.0


@dataclass(slots=True)
class MatmulProbe:
    """Measures the rate of `x @ W.T` with x (`num_tokens`, in) and W (out, in), for each of `shapes`.

    Attributes:
        shapes: (out, in) of the weights of one repeated block.
        num_tokens: rows of x; a typical pack.
        rates: FLOP/s of each measurement so far.
        spent_s: time spent measuring.
    """

    shapes: Sequence[tuple[int, int]]
    num_tokens: int
    dtype: torch.dtype
    device: torch.device
    rates: list[float] = field(default_factory=list)
    spent_s: float = 0.0
    _ended_s: list[float] = field(default_factory=list)
    _operands: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def measure(self) -> None:
        """Take one measurement: for each shape, the mean of a few products after one that does not count."""
        began = time.perf_counter()
        if not self._operands:
            self._operands = [self._random(shape) for shape in self.shapes]
        total = sum(self._time(x, weight) for x, weight in self._operands)
        flops = sum(2 * self.num_tokens * rows * columns for rows, columns in self.shapes)
        self.rates.append(flops / total)
        self._ended_s.append(time.perf_counter())
        self.spent_s += self._ended_s[-1] - began

    @property
    def is_due(self) -> bool:
        """Whether the last measurement is a few seconds old."""
        return not self._ended_s or time.perf_counter() - self._ended_s[-1] > _EVERY_S

    def measure_sometimes(self) -> None:
        """Take a measurement if one is due."""
        if self.is_due:
            self.measure()

    @property
    def flops_per_s(self) -> float:
        """The mean from the first measurement to the last; between two of them a rate is taken to change evenly."""
        if len(self.rates) == 1:
            return self.rates[0]
        return float(np.trapezoid(self.rates, self._ended_s) / (self._ended_s[-1] - self._ended_s[0]))

    def _random(self, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(self.num_tokens, shape[1], device=self.device, dtype=torch.float32)
        weight = torch.randn(shape, device=self.device, dtype=torch.float32)
        return x.to(self.dtype), weight.to(self.dtype)

    @torch.inference_mode()
    def _time(self, x: torch.Tensor, weight: torch.Tensor) -> float:
        """Seconds of one product."""
        torch.nn.functional.linear(x, weight)
        self.wait()
        began = time.perf_counter()
        for _ in range(_REPEATS):
            torch.nn.functional.linear(x, weight)
        self.wait()
        return (time.perf_counter() - began) / _REPEATS

    def wait(self) -> None:
        """Wait until the device has done all that it was given: it may have work under way that is timed elsewhere."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
