"""Speed beside accuracy: which speed runs are of the model that a run scored, and what they say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.sheet import Cell, Column, missing
from bench.report.speed import SpeedRun, machine
from bench.report.speed_cells import milliseconds, setting_of
from bench.report.text import look_up, one_line, rate
from bench.runs.reading import Run

_SAME = ("source", "revision", "fingerprint", "dtype", "quantization", "gguf", "adapter")
_PHASES = {"prefill": ("prefill",), "decode": ("decode", "served")}
BESIDE_COLUMNS = (
    Column("prefill_tokens_per_s", "prefill tokens/s", is_number=True),
    Column("decode_tokens_per_s", "decode tokens/s", is_number=True),
    Column("tpot_s", "TPOT ms", is_number=True),
)
MATCHED = (
    "prefill and decode: of speed runs of the same model, which is: equal in source, revision, files, dtype, "
    "quantisation and adapter. They are of the point with the most tokens/s, TPOT of the one of decode"
)


@dataclass(frozen=True, slots=True)
class Beside:
    """What speed runs say of a model.

    Attributes:
        prefill, decode: the point of each with the most tokens/s; None where none was measured.
        note: which points of which runs they are, and on what machine.
    """

    prefill: Mapping[str, Any] | None
    decode: Mapping[str, Any] | None
    note: str


def speed_beside(run: Run, speeds: Sequence[SpeedRun]) -> Beside | None:
    """The fastest points of the speed runs that are of a run's model; None where there are none."""
    same = [speed for speed in speeds if _identity(speed.info) == _identity(run.info)]
    found: dict[str, tuple[SpeedRun, Mapping[str, Any]]] = {}
    for name, phases in _PHASES.items():
        pairs = [(one, point) for one in same for point in one.points if point["phase"] in phases]
        counted = [pair for pair in pairs if pair[1].get("tokens_per_s") is not None]
        if counted:
            found[name] = max(counted, key=lambda pair: pair[1]["tokens_per_s"])
    if not found:
        return None
    settings: dict[str, list[str]] = {}
    for one, point in found.values():
        where = f"({one.path.name}, on {machine(one)})"
        settings.setdefault(where, []).append(f"{point['phase']} at {setting_of(point)}")
    parts = [f"{', '.join(own)} {where}" for where, own in settings.items()]
    points = {name: point for name, (_, point) in found.items()}
    return Beside(points.get("prefill"), points.get("decode"), one_line(f"speed: {'; '.join(parts)}"))


def beside_cells(run: Run, speeds: Sequence[SpeedRun]) -> tuple[Cell, ...]:
    """The cells of `BESIDE_COLUMNS`."""
    found = speed_beside(run, speeds)
    if found is None:
        return (missing("speed: no speed run is of this model as it was scored"), missing(), missing())
    tpot_s = look_up(found.decode or {}, "tpot_s.p50")
    cells = [
        missing() if point is None else Cell(point["tokens_per_s"], rate(point["tokens_per_s"]), found.note)
        for point in (found.prefill, found.decode)
    ]
    return (*cells, missing() if tpot_s is None else Cell(tpot_s, milliseconds(tpot_s)))


def _identity(info: Mapping[str, Any]) -> str:
    model = info.get("model") or {}
    return json.dumps([model.get(name) for name in _SAME], sort_keys=True)
