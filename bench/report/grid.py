"""Columns that fit a screen: what matters least drops out first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, chop_cells
from rich.text import Text

GAP = 2
MIN_NAME_WIDTH = 26  # room for "  SmolLM2-135M-Instruct ¹"; below it, columns drop out before names are cut


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        cells: its texts, one a row.
        drop: 0 for a column that stays; the higher, the sooner it drops out of a narrow screen.
        is_number: aligned to the right.
        style: rich's style of its cells.
    """

    title: str
    cells: tuple[str, ...]
    drop: int = 0
    is_number: bool = True
    style: str = ""

    @property
    def width(self) -> int:
        """Terminal cells of the widest text."""
        return max(map(cell_len, (self.title, *self.cells)))

    @property
    def is_empty(self) -> bool:
        """Whether no row has anything to say here."""
        return all(cell in ("", "–") for cell in self.cells)


def fit(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """Leave out columns until the rest is no wider than `width`; return the rest, and the titles of those left out.

    Columns without any content are left out and not mentioned. The first column names the rows; where it is too wide
    its texts are cut in their middle.
    """
    first, *rest = [column for column in columns if column.drop == 0 or not column.is_empty]
    dropped = []
    while min(first.width, MIN_NAME_WIDTH) + GAP + total_width(rest) > width and any(column.drop for column in rest):
        least = max(rest, key=lambda column: column.drop)
        rest.remove(least)
        dropped.append(least.title)
    room = max(8, width - GAP - total_width(rest))
    return [replace(first, cells=tuple(shorten(cell, room) for cell in first.cells)), *rest], dropped


def total_width(columns: Sequence[Column]) -> int:
    """Terminal cells of a row."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a text that is wider than `width`: names differ most often at their ends."""
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    start = chop_cells(text, width - 1 - tail)[0]
    end = chop_cells(text[::-1], tail)[0][::-1] if tail else ""
    return f"{start}…{end}"


def draw_titles(columns: Sequence[Column]) -> Text:
    """The line of headings."""
    return _draw([(column, column.title, "dim") for column in columns])


def draw_rule(columns: Sequence[Column]) -> Text:
    """The line under the headings."""
    return Text("─" * total_width(columns), "dim")


def draw_row(columns: Sequence[Column], index: int) -> Text:
    """The line of row `index`."""
    return _draw([(column, column.cells[index], column.style) for column in columns])


def _draw(cells: Sequence[tuple[Column, str, str]]) -> Text:
    line = Text()
    for number, (column, text, style) in enumerate(cells):
        padding = " " * (column.width - cell_len(text))
        line.append(" " * GAP if number else "")
        line.append(padding if column.is_number else "")
        line.append(text, style)
        line.append("" if column.is_number else padding)
    return line
