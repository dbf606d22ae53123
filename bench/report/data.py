"""A report as data: CSV with a line for each run, JSON with everything."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from bench.catalog.models import find_model, load_models
from bench.report.sheet import Cell, Column, Report, RunTable, Table, Value, missing
from bench.report.text import one_line

SCHEMA_VERSION = 1


def render_csv(report: Report) -> str:
    """One line for each run, each published score and each point of a speed run, in plain numbers.

    An empty field is no value, never a zero.
    """
    out = io.StringIO()
    writer: Any = csv.writer(out, lineterminator="\n")
    every = [section.results.columns for section in report.by_run()]
    columns = tuple({column.key: column for own in every for column in own}.values())
    writer.writerow(["task", "kind", "run", *(name for column in columns for name in _names(column)), "notes"])
    for section in report.sections:
        for path, row in zip(section.runs, section.results.rows, strict=True):
            head = [section.results.title, "run", path]
            writer.writerow(_line(head, section.results, row, columns, report.footnotes))
        if section.published is not None:
            writer.writerows(_published(section.results.title, section.published, columns))
    for table in report.also:
        writer.writerows(_published(table.title, table, columns))
    for speed in report.speed:
        for path, row in zip(speed.runs, speed.results.rows, strict=True):
            head = [speed.results.title, "speed", path]
            writer.writerow(_line(head, speed.results, row, columns, report.footnotes))
    return out.getvalue()


def _line(
    head: Sequence[str], table: Table, row: Sequence[Cell], columns: Sequence[Column], footnotes: Sequence[str]
) -> list[Value]:
    """A row in the columns of all tables."""
    cells = dict(zip((column.key for column in table.columns), row, strict=True))
    fields = [field for column in columns for field in _fields(column, cells.get(column.key, missing()))]
    notes = [footnotes[number - 1] for number in sorted({n for cell in row for n in cell.notes})]
    return [*_safe(*head), *fields, *_safe("; ".join(notes))]


def _names(column: Column) -> list[str]:
    return [f"{column.key}_low", f"{column.key}_high"] if column.key == "ci95" else [column.key]


def _fields(column: Column, cell: Cell) -> list[Value]:
    if column.key == "ci95":
        return list(cell.value) if isinstance(cell.value, tuple) else ["", ""]
    return _safe(cell.value)


def _safe(*values: Value) -> list[Value]:
    """Values of which none is taken for a formula by a spreadsheet."""
    return [f"'{one_line(value)}" if _is_formula(value) else "" if value is None else value for value in values]


def _is_formula(value: Value) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@")


def _published(title: str, table: Table, columns: tuple[Column, ...]) -> list[list[Value]]:
    """What others published, in the columns of the runs; what differs and where it is from stands in the notes."""
    lines = []
    keys = [column.key for column in table.columns]
    for row in table.rows:
        found = dict(zip(keys, (cell.value for cell in row), strict=True))
        note = f"differs in: {found['differences']}; {found['source']} ({found['verified']})"
        fields = [value for column in columns for value in _safe(*(found.get(key) for key in _names(column)))]
        lines.append([*_safe(title, "published", None), *fields, *_safe(note)])
    return lines


def render_json(report: Report) -> str:
    """Everything, with the reason wherever a value is null."""
    sections = [
        {
            "title": section.results.title,
            "chance": section.chance,
            "runs": _with_paths(section, report.footnotes),
            "published": [] if section.published is None else _rows(section.published, ()),
        }
        for section in report.sections
    ]
    whole = {
        "schema_version": SCHEMA_VERSION,
        "made_by": report.made_by,
        "sections": sections,
        "also_published": [{"title": table.title, "published": _rows(table, ())} for table in report.also],
        "speed": [
            {"title": section.results.title, "points": _with_paths(section, report.footnotes)}
            for section in report.speed
        ],
        "models": [{**row, "openness_by_dimension": _openness(str(row["model"]))} for row in _rows(report.models, ())],
        "remarks": report.remarks,
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _with_paths(section: RunTable, footnotes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each row's values, and the folder that they are from."""
    return [{"run": path, **row} for path, row in zip(section.runs, _rows(section.results, footnotes), strict=True)]


def _rows(table: Table, footnotes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each row's values by their columns' keys."""
    rows = []
    for row in table.rows:
        values: dict[str, Any] = {column.key: cell.value for column, cell in zip(table.columns, row, strict=True)}
        reasons = {
            column.key: cell.reason
            for column, cell in zip(table.columns, row, strict=True)
            if cell.reason and cell.value is None
        }
        notes = [footnotes[number - 1] for number in sorted({n for cell in row for n in cell.notes})]
        rows.append({**values, **({"missing": reasons} if reasons else {}), **({"notes": notes} if footnotes else {})})
    return rows


def _openness(model: str) -> list[dict[str, Any]]:
    """Each index's judgement, dimension by dimension."""
    card, indices = find_model(model), load_models().indices
    judged = []
    for one in card.openness if card is not None else ():
        index = indices[one.index]
        levels = {dimension: level for level, listed in one.listed().items() for dimension in listed}
        judged.append(
            {
                "index": index.title,
                "version": index.version,
                "source": index.source,
                "assessed": one.assessed,
                "as_of": one.as_of,
                "dimensions": {name: levels.get(name, index.levels[-1]) for name in index.dimensions},
            }
        )
    return judged
