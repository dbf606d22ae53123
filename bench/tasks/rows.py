"""Files of rows, as plain dictionaries: CSV, TSV, JSONL, JSON, text (each also `.gz`), Parquet. Of a folder or the hub.

Nothing is stripped or converted here: blanks and line breaks inside a cell are part of the question.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import IO, Any, cast

from bench.errors import DataError, DataMissingError, one_of

Row = dict[str, Any]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".json", ".txt", ".parquet")
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, csv.Error)
_may_fetch = ContextVar("may_fetch", default=True)
csv.field_size_limit(2**31 - 1)  # a cell may hold a book; the module's own limit is 128 KiB
_VARIABLE = re.compile(r"\$\{(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?\}")


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows, and the subject its path names (`""`: none)."""

    path: Path
    subject: str


def expand_folder(folder: str) -> Path:
    """Replace `${NAME}` by the environment variable of this name and `~` by the home folder.

    `${NAME:-other}` is `other` where the variable is not set; that may have a variable in it, too. Nobody has named
    this very folder then, so it need not be there.

    Raises:
        DataMissingError: a variable is not set, or the other folder is not there.
    """
    is_other = False

    def value(match: re.Match[str]) -> str:
        nonlocal is_other
        if found := os.environ.get(match[1]):
            return found
        if match[2] is None:
            raise DataMissingError(f"{match[1]} is not set")
        is_other = True
        try:
            return _VARIABLE.sub(value, match[2])
        except DataMissingError as problem:
            raise DataMissingError(f"{match[1]} is not set, and {problem}") from None

    path = Path(_VARIABLE.sub(value, folder)).expanduser()
    if is_other and not path.is_dir():
        raise DataMissingError(f"no folder {path}")
    return path


def find_files(folder: Path, pattern: str) -> list[RowFile]:
    """Return the files of `folder` that match `pattern`, in the order of their subjects, then their names.

    Where there are none, those that match it with `.gz` after it.
    """
    return _matches(folder, pattern) or _matches(folder, f"{pattern}.gz")


def _matches(folder: Path, pattern: str) -> list[RowFile]:
    parts = re.split(r"(\*|\?|\{subject\})", pattern)
    shapes = {"*": "[^/]*", "?": "[^/]", "{subject}": "(?P<subject>[^/]+)"}
    shape = re.compile("".join(shapes.get(part, re.escape(part)) for part in parts))
    files = []
    for path in folder.glob(pattern.replace("{subject}", "*")):
        match = shape.fullmatch(path.relative_to(folder).as_posix())
        if match and path.is_file():
            files.append(RowFile(path, match.groupdict().get("subject", "")))
    return sorted(files, key=lambda file: (file.subject, file.path))


@contextmanager
def without_fetching() -> Iterator[None]:
    """Within this context nothing is fetched: rows are at hand if they are on this machine."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


def fetch_hub_folder(hub: str, revision: str, patterns: Sequence[str]) -> Path:
    """Return a folder with the files of a hub data set; what the cache holds of a pinned commit is used as it is.

    Within `without_fetching` there is only what the cache holds.

    Raises:
        DataMissingError: not in the cache and not to be had: offline, gated, or no such data set.
    """
    from huggingface_hub import snapshot_download

    globs = [pattern.replace("{subject}", "*") for pattern in patterns]
    problem: Exception | None = None
    for is_local in (True, False) if _may_fetch.get() else (True,):
        try:
            folder = snapshot_download(
                hub, repo_type="dataset", revision=revision, allow_patterns=globs, local_files_only=is_local
            )
        except Exception as caught:  # the hub's client raises its own, httpx's and the system's errors
            problem = caught
            continue
        if all(find_files(Path(folder), pattern) for pattern in patterns):
            return Path(folder)
        problem = None
    if problem is None:
        raise DataMissingError(f"the hub's {hub} has no files {' and '.join(patterns)}")
    raise DataMissingError(f"the hub's {hub} cannot be had: {str(problem).strip().splitlines()[0]}")


def read_rows(path: Path, header: Sequence[str] | None = None, file_format: str | None = None) -> list[Row]:
    """Read all rows of a file.

    Args:
        path: the file; its suffix says its format, unless `file_format` does.
        header: the columns' names, for a CSV or TSV file without a header line.
        file_format: such as `txt`.

    Raises:
        DataError: unreadable or malformed; names the file and the row (counted from 1, without the header).
    """
    suffix = f".{file_format}" if file_format else Path(path.stem if path.suffix == ".gz" else path.name).suffix
    if suffix not in SUFFIXES or (suffix == ".parquet" and path.suffix == ".gz"):
        raise DataError(f"{path}: unknown format {suffix!r}; {one_of(suffix, SUFFIXES)}")
    if header is not None and suffix not in DELIMITERS:
        raise DataError(f"{path}: `header` is for CSV and TSV files; here the columns have names already")
    try:
        if suffix == ".parquet":
            from pyarrow.parquet import read_table  # type: ignore[import-untyped]

            return cast(list[Row], read_table(path).to_pylist())
        with _open(path) as stream:
            if suffix in DELIMITERS:
                return list(_csv_rows(path, stream, suffix, header))
            if suffix == ".txt":
                return [{"text": stream.read()}]
            return _json_document(path, stream) if suffix == ".json" else list(_json_rows(path, stream))
    except _UNREADABLE as problem:
        raise DataError(f"{path}: cannot be read: {' '.join(str(problem).split())}") from None


def read_text(path: Path) -> str:
    """Read a whole file as text.

    Raises:
        DataError: it is not there, or not text.
    """
    try:
        with _open(path) as stream:
            return stream.read()
    except _UNREADABLE as problem:
        raise DataError(f"{path}: cannot be read: {' '.join(str(problem).split())}") from None


def _open(path: Path) -> IO[str]:
    # newline="": the csv module must see line breaks inside quotes as they are. A byte order mark is no text.
    opened = gzip.open if path.suffix == ".gz" else open
    return cast(IO[str], opened(path, "rt", encoding="utf-8-sig", newline=""))


def parse_csv(name: str, text: str) -> list[Row]:
    """The rows of a CSV file with a header line, given as text.

    Raises:
        DataError: malformed; names the file and the row.
    """
    return list(_csv_rows(Path(name), StringIO(text, newline=""), ".csv", None))


def parse_json_lines(name: str, text: str) -> list[Row]:
    """The rows of a JSONL file given as text.

    Raises:
        DataError: malformed; names the file and the row.
    """
    return list(_json_rows(Path(name), StringIO(text)))


def _json_document(path: Path, stream: IO[str]) -> list[Row]:
    """A list of rows, or one row."""
    document = _parse_json(f"{path}", stream.read())
    rows = document if isinstance(document, list) else [document]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number}: must be a JSON object of columns and values")
    return rows


def _json_rows(path: Path, stream: IO[str]) -> Iterator[Row]:
    lines = (line for line in stream if line.strip())
    for number, line in enumerate(lines, 1):
        row = _parse_json(f"{path}: row {number}", line)
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number}: must be a JSON object of columns and values")
        yield row


def _parse_json(where: str, text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_as_object)
        if "\\ud" in text.lower():  # half a character, written as an escape, is no text that could be put to a model
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as problem:
        raise DataError(f"{where}: not valid JSON: {problem}") from None
    except UnicodeEncodeError as problem:
        raise DataError(f"{where}: holds half a character ({problem.object[problem.start]!a})") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply") from None
    except ValueError as problem:  # a key given twice, a number of thousands of digits
        raise DataError(f"{where}: {problem}") from None
    return value


def _as_object(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object; the standard library would keep the last of two equal keys and say nothing."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return row


def _csv_cells(path: Path, stream: IO[str], suffix: str) -> Iterator[list[str]]:
    """The lines that are not empty, as cells."""
    reader = csv.reader(stream, delimiter=DELIMITERS[suffix], strict=True)
    try:
        yield from (cells for cells in reader if cells)
    except csv.Error as problem:
        raise DataError(f"{path}: line {reader.line_num}: cannot be read: {problem}") from None


def _csv_rows(path: Path, stream: IO[str], suffix: str, header: Sequence[str] | None) -> Iterator[Row]:
    lines = _csv_cells(path, stream, suffix)
    names = header if header is not None else next(lines, [])
    if len(set(names)) < len(names):
        raise DataError(f"{path}: the header names a column twice: {', '.join(names)}")
    for number, cells in enumerate(lines, 1):
        if len(cells) != len(names):
            raise DataError(
                f"{path}: row {number}: has {len(cells)} cells, the header {len(names)} ({', '.join(names)})"
            )
        yield dict(zip(names, cells, strict=True))
