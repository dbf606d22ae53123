"""What the processes on a run measure, each for itself, and what that makes for the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.telemetry.summary import put_telemetry_together

SECONDS = ("load_s", "encode_s", "plan_s", "wait_s", "self_check_s", "score_s", "total_s")


@dataclass(slots=True)
class Measured:
    """What one process measured in this sitting, or all of them together.

    Attributes:
        seconds: by name, `SECONDS`.
        num_forwarded: tokens sent through the model.
        timed_flops: floating-point operations of the packs that `score_s` covers.
        matmul_flops_per_s: the lowest measurement, the mean over time and the highest; empty before the first.
        num_matmul_measurements: how many.
        peak_memory_bytes: the most memory held; of several processes, that of the one that held most.
        num_halvings: how often memory ran out.
        notes: what a reader should know.
        num_shown: tokens of the progress bar that are done.
        telemetry: what its devices said, see `bench.telemetry.recorder`; empty before the first reading.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))
    num_forwarded: int = 0
    timed_flops: int = 0
    matmul_flops_per_s: list[float] = field(default_factory=list)
    num_matmul_measurements: int = 0
    peak_memory_bytes: int = 0
    num_halvings: int = 0
    notes: list[str] = field(default_factory=list)
    num_shown: int = 0
    telemetry: dict[str, Any] = field(default_factory=dict)

    @property
    def timed_floor_s(self) -> float:
        """The least time in which `timed_flops` could have been done, at the mean rate."""
        return self.timed_flops / self.matmul_flops_per_s[1] if self.matmul_flops_per_s else 0.0


def put_together(parts: Sequence[Measured], *, is_lockstep: bool) -> Measured:
    """What the processes on a run measured together.

    Seconds are those of the slowest. Work adds up, unless all did the same work together (`is_lockstep`). Rates of
    matrix products were measured side by side, and add up.
    """
    workers = parts[:1] if is_lockstep else parts
    rates = [part.matmul_flops_per_s for part in parts if part.matmul_flops_per_s]
    return Measured(
        seconds={name: max(part.seconds[name] for part in parts) for name in SECONDS},
        num_forwarded=sum(part.num_forwarded for part in workers),
        timed_flops=sum(part.timed_flops for part in workers),
        matmul_flops_per_s=[sum(column) for column in zip(*rates, strict=True)],
        num_matmul_measurements=sum(part.num_matmul_measurements for part in parts),
        peak_memory_bytes=max(part.peak_memory_bytes for part in parts),
        num_halvings=max(part.num_halvings for part in parts),
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        num_shown=sum(part.num_shown for part in workers),
        telemetry=put_telemetry_together([part.telemetry for part in parts]),
    )
