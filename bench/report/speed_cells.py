"""Cells that the tables of speed runs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.report.power import joules
from bench.report.text import MISSING, count, one_line, percent, rate


def milliseconds(seconds: float) -> str:
    """0.0123 → `12.3`."""
    return rate(1000 * seconds)


def spread(point: Mapping[str, Any]) -> float | None:
    """Half of the interval of a point's median, as a share of it; None where there is no interval."""
    ends = point["repeat_s"]["median_ci95"]
    return None if ends is None else float((ends[1] - ends[0]) / 2 / point["repeat_s"]["p50"])


def half_width(point: Mapping[str, Any]) -> str:
    """The same in percent."""
    return percent(spread(point), 1)


def energy_cell(point: Mapping[str, Any], per: str = "token") -> str:
    """Joules of a point for each `token`, `question`, ..."""
    found = point["energy"][f"per_{per}_j"]
    return MISSING if found is None else joules(found)


def setting_of(point: Mapping[str, Any]) -> str:
    """What a point was measured at: `4 × 512 tokens`, `4 × 512 cached`, `pocket letter 5-shot`, `concurrency 8`."""
    phase, load = point["phase"], point.get("load") or {}
    if phase == "prefill":
        return f"{count(point['batch_size'])} × {count(point['length'])} tokens"
    if phase == "decode":
        return f"{count(point['batch_size'])} × {count(point['length'])} cached"
    if phase == "scoring":
        limit = point["task"].get("limit")
        return one_line(point["task"]["title"] + (f", limit {count(limit)}" if limit else ""))
    if "concurrency" in load:
        return f"concurrency {count(load['concurrency'])}"
    if "request_rate_per_s" in load:
        return f"{rate(load['request_rate_per_s'])} requests/s"
    return one_line(point["key"])
