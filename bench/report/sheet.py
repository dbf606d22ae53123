"""Tables before they have a form: typed cells, footnotes and points, which every format renders in its own way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

Value = float | int | str | tuple[float, float] | None

MISSING = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        key: its name in CSV and JSON, with its unit.
        title: its heading for readers.
        is_number: aligned to the right and sorted by value.
        is_long: sentences, which may be broken into lines.
        is_data: for CSV and JSON only; readers are told in another column.
    """

    key: str
    title: str
    is_number: bool = False
    is_long: bool = False
    is_data: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        value: as CSV and JSON have it; None where there is nothing, a pair for an interval.
        text: as a reader sees it.
        reason: why there is no value, or what must be known of it; becomes a footnote.
        notes: numbers of its footnotes.
    """

    value: Value
    text: str
    reason: str | None = None
    notes: tuple[int, ...] = ()


def missing(reason: str | None = None) -> Cell:
    """A cell without a value, never a zero."""
    return Cell(None, MISSING, reason)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; in each row a cell for each column."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def cells(self, key: str) -> list[Cell]:
        """The cells of one column."""
        place = [column.key for column in self.columns].index(key)
        return [row[place] for row in self.rows]

    def for_readers(self, left_out: Iterable[str] = ()) -> Table:
        """The table without some of its columns, those for data only, and those in which nothing stands."""
        keys = {*left_out, *(column.key for column in self.columns if column.is_data)}
        empty = {
            place for place in range(len(self.columns)) if all(row[place].value in (None, "") for row in self.rows)
        }
        kept = [place for place, column in enumerate(self.columns) if column.key not in keys and place not in empty]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=tuple(tuple(row[place] for place in kept) for row in self.rows),
        )


@dataclass(frozen=True, slots=True)
class Point:
    """A run in a plot.

    Attributes:
        score: from 0 to 1.
        usd: cost of 1,000 questions.
        per_s: questions a second.
        wh: energy of 1,000 questions.
    """

    label: str
    score: float
    ci95: tuple[float, float] | None
    usd: float | None
    per_s: float | None
    wh: float | None = None
    is_published: bool = False


@dataclass(frozen=True, slots=True)
class SpeedPoint:
    """A point of a speed run in a plot.

    Attributes:
        line: the points that are joined: those of one model that differ in how much it is given to do at once.
        label: what that is.
        tpot_s: the median time of a token.
        per_s: tokens a second, of all sequences together.
    """

    line: str
    label: str
    tpot_s: float
    per_s: float


@dataclass(frozen=True, slots=True)
class RunTable:
    """A table of run folders, or of points of them.

    Attributes:
        runs: names of the folders, one a row of `results`.
    """

    results: Table
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section(RunTable):
    """One task, scored in one way: the runs, and below them what others have published.

    Attributes:
        published: None where nothing is.
        chance: what guessing gives.
        points: empty where the metric is no share.
    """

    published: Table | None
    chance: float | None
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All that is published together.

    Attributes:
        sections: each with tables of equal columns.
        also: what others have published for tasks of which there is no run.
        speed: what speed runs measured, a table for each kind of points.
        speed_points: those of them that can be plotted.
        models: licence, openness, where data goes.
        footnotes: numbered from 1.
        remarks: what is to be known of the whole.
        made_by: program, version and date.
        left_out: keys of the columns in which no run has anything; only tables for readers leave them out.
    """

    sections: tuple[Section, ...]
    also: tuple[Table, ...]
    models: Table
    footnotes: tuple[str, ...]
    remarks: tuple[str, ...]
    made_by: str
    left_out: frozenset[str]
    speed: tuple[RunTable, ...] = ()
    speed_points: tuple[SpeedPoint, ...] = ()

    def results(self) -> list[Table]:
        """The tables of the runs, then of speed, as readers get them; the footnotes are theirs."""
        scored = [section.results.for_readers(self.left_out) for section in self.sections]
        return [*scored, *(one.results.for_readers() for one in self.speed)]

    def by_run(self) -> tuple[RunTable, ...]:
        """The tables of the runs, then of speed, with their folders."""
        return (*self.sections, *self.speed)

    def further(self) -> list[Table]:
        """What is published, task by task, and the models."""
        published = [section.published.for_readers() for section in self.sections if section.published is not None]
        return [*published, *(table.for_readers() for table in self.also), self.models.for_readers()]


class Numbering:
    """Footnotes as they are met; equal texts share a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, cell: Cell, texts: Iterable[str] = ()) -> Cell:
        """The cell with the numbers of its reason and of further texts."""
        every = [*texts, *([cell.reason] if cell.reason else [])]
        numbers = {self._numbers.setdefault(text, len(self._numbers) + 1) for text in every}
        return replace(cell, notes=tuple(sorted(numbers)))

    @property
    def texts(self) -> tuple[str, ...]:
        """All footnotes, the first being number 1."""
        return tuple(self._numbers)


def empty_columns(tables: Sequence[Table]) -> dict[str, list[str]]:
    """Keys of the columns without any value in tables of equal columns, with the reasons given in them."""
    found = {}
    for column in tables[0].columns if tables else ():
        cells = [cell for table in tables for cell in table.cells(column.key)]
        if all(cell.value is None for cell in cells):
            found[column.key] = list(dict.fromkeys(cell.reason for cell in cells if cell.reason))
    return found
