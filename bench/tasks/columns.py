"""A source's rows with all their columns: those of the file, of its items, of files beside it, and computed ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import DataError, one_of
from bench.tasks.rows import Row, RowFile, read_rows, read_text
from bench.tasks.source import Files, Source
from bench.tasks.template import compile_expression


def load_columns(folder: Path, source: Source, files: Files, file: RowFile) -> list[tuple[int, Row]]:
    """Load a file's rows that `where` keeps, complete, each with its number (from 1).

    Raises:
        DataError: names file, row and key.
    """
    rows = _with_subject(file, load_stored(folder, source, files, file))
    if _is_stored(files, rows):
        return [(number, _computed(file, number, source, row)) for number, row in rows if _is_wanted(files, row)]
    complete = [(number, _computed(file, number, source, row)) for number, row in rows]
    for column in files.where if complete else ():
        if column not in complete[0][1]:
            raise DataError(f"{file.path}: `where` needs a column {column!r}; {one_of(column, complete[0][1])}")
    return [(number, row) for number, row in complete if _is_wanted(files, row)]


def count_stored(folder: Path, source: Source, files: Files, file: RowFile) -> int:
    """Count a file's rows, those too that `where` leaves out."""
    return len(load_stored(folder, source, files, file))


def load_stored(folder: Path, source: Source, files: Files, file: RowFile) -> list[tuple[int, Row]]:
    """Load a file's rows, each with its number, before anything is computed; `where` is not asked."""
    rows = read_rows(file.path, source.header, source.format)
    if files.each is not None:
        rows = [item for number, row in enumerate(rows, 1) for item in _items(file, number, files.each, row)]
    given: Row = {}
    for column, path in files.texts.items():
        given[column] = read_text(_beside(folder, path, file))
    by_row = [_lines(folder, path, file, len(rows)) for path in files.lines.values()]
    if not given and not by_row:
        return list(enumerate(rows, 1))
    columns = zip(*by_row, strict=True) if by_row else ((),) * len(rows)
    complete = [given | row | dict(zip(files.lines, own, strict=True)) for row, own in zip(rows, columns, strict=True)]
    return list(enumerate(complete, 1))


def count_rows(folder: Path, source: Source, files: Files, file: RowFile) -> int:
    """Count a file's rows that `where` keeps; computes no columns unless it asks for them."""
    rows = _with_subject(file, load_stored(folder, source, files, file))
    if _is_stored(files, rows):
        return sum(_is_wanted(files, row) for _, row in rows)
    return len(load_columns(folder, source, files, file))


def _with_subject(file: RowFile, rows: list[tuple[int, Row]]) -> list[tuple[int, Row]]:
    """The rows with the subject that their file's path names, unless they have a column of that name."""
    return [(number, {"subject": file.subject} | row) for number, row in rows] if file.subject else rows


def _is_stored(files: Files, rows: list[tuple[int, Row]]) -> bool:
    """Whether `where` can be answered before anything is computed."""
    return not rows or all(column in rows[0][1] for column in files.where)


def _is_wanted(files: Files, row: Row) -> bool:
    return all(str(row.get(column)) == value for column, value in files.where.items())


def _beside(folder: Path, path: str, file: RowFile) -> Path:
    return folder / path.replace("{subject}", file.subject)


def _lines(folder: Path, path: str, file: RowFile, num_rows: int) -> list[str]:
    """The lines of a file that has one for each row. Only line feeds end one: texts may hold rarer line breaks."""
    beside = _beside(folder, path, file)
    lines = [line.removesuffix("\r") for line in read_text(beside).removesuffix("\n").split("\n")]
    if len(lines) != num_rows:
        raise DataError(f"{beside}: has {len(lines)} lines, but {file.path} has {num_rows} rows")
    return lines


def _items(file: RowFile, number: int, expression: str, row: Row) -> Iterator[Row]:
    """The rows that `each` makes of one; the list itself is no column of theirs."""
    try:
        items = _evaluate("each", expression, row)
    except ValueError as problem:
        raise DataError(f"{file.path}: row {number}: {problem}") from None
    if not isinstance(items, list | tuple):
        raise DataError(f"{file.path}: row {number}: each: {expression!r} must give a list, not {items!r:.60}")
    shared = {name: value for name, value in row.items() if value is not items}
    for item in items:
        yield shared | (dict(item) if isinstance(item, Mapping) else {"item": item})


def _computed(file: RowFile, number: int, source: Source, row: Row) -> Row:
    """A row with the columns that are computed from it."""
    if not source.compute:
        return row
    complete = dict(row)
    try:
        for name, expression in source.compute.items():
            complete[name] = _evaluate(f"compute.{name}", expression, complete)
    except ValueError as problem:
        raise DataError(f"{file.path}: row {number}: {problem}") from None
    return complete


def _evaluate(key: str, expression: str, row: Row) -> Any:
    try:
        return compile_expression(expression)(**row)
    except Exception as problem:  # an expression is a small program and may fail in any way
        raise ValueError(f"{key}: {' '.join(str(problem).split())}") from None
