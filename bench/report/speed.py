"""What speed runs measured: a row a point, the floor beside each figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from bench.report.grid import Column, draw_row, draw_rule, draw_titles, fit
from bench.report.scoring_speed import SCORING_LEGEND, scoring_columns
from bench.report.served import SERVED_LEGEND, judged, remarks_on_served, served_columns
from bench.report.speed_cells import energy_cell, half_width, milliseconds
from bench.report.text import (
    Screen,
    count,
    duration,
    hanging,
    look_up,
    memory,
    one_line,
    percent,
    rate,
    scaled,
    short_precision,
)
from bench.runs.reading import read_speed_info
from bench.speed.folder import read_points

_SWEPT = ("prefill", "decode")
PHASES = (*_SWEPT, "scoring", "served")
_LEGEND = (
    "tokens/s: read by prefill, written by decode, at the median time; ±: half of the median's 95 % interval. ms: "
    "until the first token (prefill), or a token of each sequence (decode). floor: the least time by this machine's "
    "measured rates ÷ the time taken; MFU: share of the rate of matrix products; MBU: of the memory's."
)


@dataclass(frozen=True, slots=True)
class SpeedRun:
    """A speed run's folder as read.

    Attributes:
        info: run.json.
        points: what was measured, in the order of the sweep.
    """

    path: Path
    info: dict[str, Any]
    points: tuple[dict[str, Any], ...]


def read_speed_run(path: Path) -> SpeedRun | None:
    """Read a speed run; None if the folder is another run's.

    Raises:
        RunFolderError: it is no run folder, or a damaged one.
    """
    info = read_speed_info(path)
    if info is None:
        return None
    return SpeedRun(path, info, tuple(judged(info, sorted(read_points(path).values(), key=_place))))


def _place(point: Mapping[str, Any]) -> tuple[float, ...]:
    """Where a point stands in its sweep."""
    phase = PHASES.index(point["phase"])
    if point["phase"] == "served":
        load = point["load"]
        return (phase, "concurrency" not in load, *load.values(), point["prompt_tokens"], point["completion_tokens"])
    return (phase, point.get("batch_size", 0), point.get("length", 0))


def render_speed(runs: Sequence[SpeedRun], screen: Screen) -> str:
    """A table of each kind of points of speed runs, with what must be known of them."""
    lines: list[Text] = []
    remarks: list[str] = []
    for phases, draw, legend in _TABLES:
        rows = [(run, point) for run in runs for point in run.points if point["phase"] in phases]
        if rows:
            columns, dropped = fit(draw(rows), screen.width)
            lines += [draw_titles(columns), draw_rule(columns)]
            lines += [*(draw_row(columns, index) for index in range(len(rows))), Text()]
            remarks.append(legend)
            remarks += [f"left out for want of room: {', '.join(dropped)}"] if dropped else []
    remarks += _remarks(runs)
    for remark in dict.fromkeys(remarks):
        lines += hanging(screen, Text(), Text(one_line(remark), "dim"))
    return screen.render(lines)


def _columns(rows: Sequence[tuple[SpeedRun, Mapping[str, Any]]]) -> list[Column]:
    def column(title: str, drop: int, cells: list[str], *, is_number: bool = True) -> Column:
        return Column(title, tuple(cells), drop, is_number)

    points = [point for _, point in rows]
    step = [point["ttft_s"] if point["phase"] == "prefill" else point["tpot_s"] for point in points]
    names = [one_line(look_up(run.info, "model.name") or run.path.name) for run, _ in rows]
    return [
        column("model", 0, names, is_number=False),
        column("weights", 9, [short_precision(run.info["model"]) for run, _ in rows], is_number=False),
        column("", 0, [point["phase"] for point in points], is_number=False),
        column("batch", 0, [count(point["batch_size"]) for point in points]),
        column("length", 0, [count(point["length"]) for point in points]),
        column("tokens/s", 0, [rate(point["tokens_per_s"]) for point in points]),
        column("± %", 1, [half_width(point) for point in points]),
        *(
            column(f"p{share} ms", drop, [milliseconds(one[f"p{share}"]) for one in step])
            for share, drop in ((50, 0), (90, 4), (99, 3))
        ),
        column("floor %", 1, [percent(point["share"], 0) for point in points]),
        column("MFU %", 5, [percent(point["mfu"], 0) for point in points]),
        column("MBU %", 5, [percent(point["mbu"], 0) for point in points]),
        column("peak", 7, [memory(point["peak_memory_bytes"]) for point in points]),
        column("J/token", 6, [energy_cell(point) for point in points]),
    ]


def _scoring(rows: Sequence[tuple[SpeedRun, Mapping[str, Any]]]) -> list[Column]:
    return scoring_columns([run.info for run, _ in rows], [point for _, point in rows])


def _served(rows: Sequence[tuple[SpeedRun, Mapping[str, Any]]]) -> list[Column]:
    return served_columns([run.info for run, _ in rows], [point for _, point in rows])


_TABLES = (
    (_SWEPT, _columns, _LEGEND),
    (("scoring",), _scoring, SCORING_LEGEND),
    (("served",), _served, SERVED_LEGEND),
)
"""The phases that share a table, its columns, and what they mean."""


def _remarks(runs: Sequence[SpeedRun]) -> Iterator[str]:
    for run in runs:
        name = f"{look_up(run.info, 'model.name')} ({run.path.name})"
        yield from (f"{name}: {text}" for text in dict.fromkeys(remarks_on_speed(run)))


def remarks_on_speed(run: SpeedRun) -> Iterator[str]:
    """What a reader of a speed run's figures must know, the machine first."""
    if look_up(run.info, "model.kind") == "api":
        yield from remarks_on_served(run.info, run.points)
    else:
        loading = look_up(run.info, "timing.load_s")
        loaded = "not loaded" if loading is None else f"loaded in {duration(loading)}"
        yield f"{_rates(run)}; {loaded}; {machine(run)}"
    if run.info["status"] != "finished":
        yield f"{run.info['status']}, {run.info.get('reason') or 'not all points are measured'}"
    wide = [point["key"] for point in run.points if not point.get("is_tight", True)]
    if wide:
        tightness = look_up(run.info, "config.speed.tightness")
        yield f"interval wider than ±{percent(tightness, 0)} %: {', '.join(wide)}"
    beyond = [point["key"] for point in run.points if (point.get("share") or 0) > 1]
    if beyond:
        yield f"above 100 %, so the machine was slower when its rates were measured: {', '.join(beyond)}"
    if any(point["mbu"] is None for point in run.points if point["phase"] in _SWEPT):
        yield "MBU not measured: how many bytes quantised weights take to read is not known"
    yield from (f"energy not measured: {why}" for why in _why_no_energy(run))
    yield from run.info.get("notes") or ()
    for point in run.points:
        yield from point.get("notes", ())


def _rates(run: SpeedRun) -> str:
    """The rates that the points were measured against, lowest and highest."""
    parts = []
    for key, unit in (("matmul_flops_per_s", "FLOP/s"), ("memory_bytes_per_s", "B/s")):
        found = [rate for point in run.points if (rate := point.get(key)) is not None]
        if found:
            parts.append(f"{scaled(min(found), unit)} to {scaled(max(found), unit)}")
    return "measured " + " and ".join(parts) if parts else "nothing measured"


def machine(run: SpeedRun) -> str:
    """What the model ran on."""
    where = run.info.get("environment") or {}
    if look_up(run.info, "model.kind") == "api":
        return f"{look_up(run.info, 'model.provider')} at {look_up(run.info, 'model.base_url')}"
    if str(look_up(run.info, "engine.device") or "cpu") != "cpu":
        return str(where.get("gpu"))
    num_threads = look_up(run.info, "engine.num_threads")  # known once it has been loaded
    return str(where.get("cpu")) + ("" if num_threads is None else f", {num_threads} threads")


def _why_no_energy(run: SpeedRun) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for point in run.points:
        energy = point.get("energy")
        if energy and energy["total_j"] is None:
            reasons.setdefault(energy["not_measured"].get(energy["scope"], "no reading"), []).append(point["key"])
    all_of_them = len(run.points)
    return [why if len(keys) == all_of_them else f"{why} ({', '.join(keys)})" for why, keys in reasons.items()]
