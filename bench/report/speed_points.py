"""Points of speed runs as a report has them: a table for each kind of points, whatever measured them.

A column is a name, a place in a point's record, and how it is read; what a point lacks is a cell without a value. So a
kind of points that is not known here shows whatever figures it shares with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import CostSpec
from bench.report.blocks import model_names
from bench.report.money import Amount, point_usd_per_million
from bench.report.sheet import Cell, Column, Numbering, RunTable, SpeedPoint, Table, empty_columns, missing
from bench.report.speed import SpeedRun, remarks_on_speed
from bench.report.speed_cells import milliseconds, setting_of, spread
from bench.report.text import MISSING, count, look_up, memory, one_line, percent, rate, scaled, short_precision
from bench.runs.reading import Run

Point = Mapping[str, Any]

TITLES = {
    "reading and writing": ("prefill", "decode"),
    "scoring": ("scoring",),
    "served": ("served",),
}
REMARKS = {
    "prefill": "prefill reads prompts, decode writes a token of each sequence a step, by plain forward calls of a "
    "whole batch at once; tokens/s at the median time, ±: half of its 95 % interval; TTFT: until the first token; "
    "TPOT: a token of each sequence.",
    "scoring": "scoring: from prompts to scores, with the model loaded; tokens are distinct ones.",
    "served": "served: what clients saw of a server or a service under the load that is named; tokens are written.",
    "share": "floor: the least time by this machine's measured rates ÷ the time taken. MFU: share of the measured rate "
    "of matrix products. MBU: of the memory's.",
    "cost_usd_per_million_tokens": "USD / M tokens: for a million tokens of the row's kind, at the plan's prices.",
}


@dataclass(frozen=True, slots=True)
class _Figure:
    """A column that is a number of the point's record."""

    key: str
    title: str
    place: str
    text: Callable[[float], str]


def _percent(share: float) -> str:
    return percent(share, 0)


_FIGURES = (
    _Figure("batch_size", "batch", "batch_size", count),
    _Figure("length", "length", "length", count),
    _Figure("concurrency", "concurrency", "load.concurrency", count),
    _Figure("request_rate_per_s", "requests/s sent", "load.request_rate_per_s", rate),
    _Figure("num_questions", "n", "num_questions", count),
    _Figure("questions_per_s", "questions/s", "questions_per_s", rate),
    _Figure("requests_per_s", "requests/s", "requests_per_s", rate),
    _Figure("goodput_per_s", "goodput/s", "goodput.requests_per_s", rate),
    _Figure("tokens_per_s", "tokens/s", "tokens_per_s", rate),
    _Figure("spread", "± %", "", lambda share: percent(share, 1)),
    _Figure("logical_tokens_per_s", "logical tokens/s", "logical_tokens_per_s", rate),
    _Figure("ttft_p50_s", "TTFT ms", "ttft_s.p50", milliseconds),
    _Figure("ttft_p99_s", "TTFT p99", "ttft_s.p99", milliseconds),
    _Figure("tpot_p50_s", "TPOT ms", "tpot_s.p50", milliseconds),
    _Figure("tpot_p99_s", "TPOT p99", "tpot_s.p99", milliseconds),
    _Figure("share", "floor %", "share", _percent),
    _Figure("mfu", "MFU %", "mfu", _percent),
    _Figure("mbu", "MBU %", "mbu", _percent),
    _Figure("energy_j_per_token", "J/token", "energy.per_token_j", lambda joules: scaled(joules, "J")),
    _Figure("peak_memory_bytes", "peak memory", "peak_memory_bytes", memory),
)
_IN_SETTING = ("batch_size", "length", "concurrency", "request_rate_per_s")  # which the column `at` says in words
_COST = Column("cost_usd_per_million_tokens", "USD / M tokens", is_number=True)
COLUMNS = (
    Column("model", "model"),
    Column("weights", "weights"),
    Column("phase", "phase"),
    Column("setting", "at"),
    *(Column(one.key, one.title, is_number=True, is_data=one.key in _IN_SETTING) for one in _FIGURES[:-1]),
    _COST,
    Column("peak_memory_bytes", "peak memory", is_number=True),
)


def speed_sections(runs: Sequence[SpeedRun], costs: CostSpec | None, numbering: Numbering) -> list[RunTable]:
    """A section for each kind of points that was measured, with its footnotes; a run's first row has the run's."""
    names = dict(zip((run.path for run in runs), model_names([as_run(run) for run in runs]), strict=True))
    phases = dict.fromkeys(point["phase"] for run in runs for point in run.points)
    known = {phase for group in TITLES.values() for phase in group}
    groups = {**TITLES, **{phase: (phase,) for phase in phases if phase not in known}}
    sections = []
    for title, group in groups.items():
        rows = [(run, point) for run in runs for point in run.points if point["phase"] in group]
        if rows:
            cells = tuple(_row(names[run.path], run, point, costs) for run, point in rows)
            table = Table(f"Speed · {one_line(title)}", COLUMNS, cells)
            owners = [run for run, _ in rows]
            sections.append(RunTable(_with_notes(table, owners, numbering), tuple(run.path.name for run in owners)))
    return sections


def as_run(run: SpeedRun) -> Run:
    """A speed run where only what it is of matters."""
    return Run(run.path, run.info, (), ())


def speed_points(runs: Sequence[SpeedRun]) -> tuple[SpeedPoint, ...]:
    """What can be plotted: tokens a second over the time of a token."""
    names = model_names([as_run(run) for run in runs])
    found = []
    for name, run in zip(names, runs, strict=True):
        for point in run.points:
            tpot_s, per_s = look_up(point, "tpot_s.p50"), point.get("tokens_per_s")
            if tpot_s and per_s:
                weights = short_precision(run.info.get("model") or {})
                line = f"{name}{'' if weights == MISSING else f' {weights}'}{_apart(point)}"
                found.append(SpeedPoint(one_line(line), _at_once(point), tpot_s, per_s))
    return tuple(found)


def _at_once(point: Point) -> str:
    """How many sequences are under way; at a rate of requests nobody sets that."""
    load = point.get("load") or {}
    number = load.get("concurrency", point.get("batch_size"))
    return count(number) if number is not None else f"{rate(load['request_rate_per_s'])}/s"


def _apart(point: Point) -> str:
    """What sets a line of points apart from others of its model: all but what grows along it."""
    if point["phase"] == "decode":
        return f", context {count(point['length'])}"
    return ", served" if "concurrency" in (point.get("load") or {}) else ", served at a rate"


def _row(name: str, run: SpeedRun, point: Point, costs: CostSpec | None) -> tuple[Cell, ...]:
    weights = short_precision(run.info.get("model") or {})
    *figures, peak = (_cell(figure, point) for figure in _FIGURES)
    setting = setting_of(point)
    return (
        Cell(name, one_line(name)),
        missing() if weights == MISSING else Cell(weights, weights),
        Cell(point["phase"], one_line(point["phase"])),
        Cell(setting, setting),
        *figures,
        _amount(point_usd_per_million(run.info, point, costs)),
        peak,
    )


def _cell(figure: _Figure, point: Point) -> Cell:
    value = _spread(point) if figure.key == "spread" else look_up(point, figure.place)
    return missing(_why(figure, point)) if value is None else Cell(value, figure.text(value))


def _spread(point: Point) -> float | None:
    return spread(point) if "repeat_s" in point else None


def _why(figure: _Figure, point: Point) -> str | None:
    """Why a figure that such a point should have is missing."""
    energy = point.get("energy")
    if figure.key == "energy_j_per_token" and energy:
        return f"energy: not measured, {(energy.get('not_measured') or {}).get(energy.get('scope'), 'no reading')}"
    reason = look_up(point, f"not_measured.{figure.place.partition('.')[0]}")
    return None if reason is None else f"{figure.title}: {reason}"


def _amount(amount: Amount) -> Cell:
    if amount.value is None:
        return missing(amount.reason)
    return Cell(amount.value, f"{amount.value:.3g}", amount.reason)


def _with_notes(table: Table, owners: Sequence[SpeedRun], numbering: Numbering) -> Table:
    """The table with its footnotes; where a column is empty, the first row tells why."""
    empty = empty_columns([table])
    rows, told = [], set[Path]()
    for run, row in zip(owners, table.rows, strict=True):
        is_first = run.path not in told
        told.add(run.path)
        remarks = [one_line(text) for text in dict.fromkeys(remarks_on_speed(run))] if is_first else []
        if is_first:
            remarks += [one_line(reason) for key, reasons in empty.items() if key == _COST.key for reason in reasons]
        cells = [
            cell if column.key in empty else numbering.mark(cell)
            for column, cell in zip(table.columns[1:], row[1:], strict=True)
        ]
        rows.append((numbering.mark(row[0], remarks), *cells))
    return Table(table.title, table.columns, tuple(rows))


def remarks_for(sections: Sequence[RunTable]) -> list[str]:
    """What the columns of these sections mean."""
    tables = [section.results for section in sections]
    phases = {cell.text for table in tables for cell in table.cells("phase")}
    keys = {column.key for table in tables for column in table.for_readers().columns}
    return [text for key, text in REMARKS.items() if key in phases or key in keys]
