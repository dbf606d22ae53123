from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import DataError
from bench.tasks.columns import count_rows, load_columns
from bench.tasks.rows import Row, find_files
from bench.tasks.source import Source

ROWS = [{"a": "x", "n": 1}, {"a": "y", "n": 2}, {"a": "z", "n": 2}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "own.json").write_text(json.dumps({"note": "n", "items": [{"q": "1?"}, {"q": "2?", "note": "m"}]}))
    (tmp_path / "own.txt").write_text("head\n\nQ: one\n\nQ: two", encoding="utf-8")
    return tmp_path


def load(folder: Path, files: object, compute: dict[str, str] | None = None) -> list[tuple[int, Row]]:
    raw: dict[str, Any] = {"test": files, "columns": {}, "compute": compute or {}}
    source = Source.model_validate(raw)
    (file,) = find_files(folder, source.test.file)
    found = load_columns(folder, source, source.test, file)
    assert count_rows(folder, source, source.test, file) == len(found)
    return found


def test_a_file_beside_may_have_a_line_for_each_row(folder: Path) -> None:
    (folder / "labels.lst").write_text("0\r\n\u20281\n \n", encoding="utf-8", newline="")
    found = load(folder, {"file": "rows.jsonl", "lines": {"label": "labels.lst"}})
    assert [(row["a"], row["label"]) for _, row in found] == [("x", "0"), ("y", "\u20281"), ("z", " ")]


def test_a_file_beside_with_more_or_fewer_lines_is_an_error(folder: Path) -> None:
    for text, num in (("0\n1\n", 2), ("0\n1\n2\n3", 4), ("0\n1\n2\n\n", 4)):
        (folder / "labels.lst").write_text(text)
        with pytest.raises(DataError, match=rf"labels.lst: has {num} lines, but .*rows.jsonl has 3 rows"):
            load(folder, {"file": "rows.jsonl", "lines": {"label": "labels.lst"}})
    with pytest.raises(DataError, match=r"none\.lst: cannot be read"):
        load(folder, {"file": "rows.jsonl", "lines": {"label": "none.lst"}})


def test_a_file_beside_may_be_given_whole_to_each_row(folder: Path) -> None:
    found = load(folder, {"file": "{subject}.json", "texts": {"prompts": "{subject}.txt"}})
    assert found[0][1]["prompts"].startswith("head")
    assert found[0][1]["subject"] == "own"


def test_each_makes_rows_of_a_list(folder: Path) -> None:
    found = load(folder, {"file": "own.json", "each": "items"})
    assert found == [(1, {"note": "n", "q": "1?"}), (2, {"note": "m", "q": "2?"})]


def test_each_makes_rows_of_a_text(folder: Path) -> None:
    found = load(folder, {"file": "own.txt", "each": r"text.split('\n\nQ: ')[1:]"}, {"loud": "item.upper()"})
    assert [row["loud"] for _, row in found] == ["ONE", "TWO"]


def test_where_knows_stored_and_computed_columns(folder: Path) -> None:
    assert [number for number, _ in load(folder, {"file": "rows.jsonl", "where": {"n": 2}})] == [2, 3]
    files = {"file": "rows.jsonl", "where": {"is_late": "True"}}
    assert [number for number, _ in load(folder, files, {"is_late": "a > 'y'"})] == [3]


def test_stored_columns_are_asked_before_any_is_computed(folder: Path) -> None:
    found = load(folder, {"file": "rows.jsonl", "where": {"n": 1}}, {"half": "1 // (2 - n)"})  # fails where n is 2
    assert [row["half"] for _, row in found] == [1]


@pytest.mark.parametrize(
    ("files", "compute", "message"),
    [
        ({"file": "rows.jsonl", "where": {"m": 2}}, {}, "rows.jsonl: `where` needs a column 'm'; .*'?n'?"),
        ({"file": "rows.jsonl"}, {"b": "1 // (2 - n)"}, "rows.jsonl: row 2: compute.b: .*zero"),
        ({"file": "rows.jsonl"}, {"b": "aa"}, "rows.jsonl: row 1: compute.b: 'aa' is undefined"),
        ({"file": "rows.jsonl", "each": "n"}, {}, "rows.jsonl: row 1: each: 'n' must give a list, not 1"),
        ({"file": "rows.jsonl", "each": "b"}, {}, "rows.jsonl: row 1: each: 'b' is undefined"),
    ],
)
def test_a_mistake_names_file_row_and_key(folder: Path, files: object, compute: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(folder, files, compute)


@pytest.mark.parametrize("path", ["*.lst", "{subject}.lst"])
def test_a_file_beside_is_one_file(path: str) -> None:
    with pytest.raises(ValueError, match="must be one file"):
        Source.model_validate({"test": {"file": "rows.jsonl", "lines": {"label": path}}, "columns": {}})
