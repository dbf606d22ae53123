"""The folder of a speed run: `run.json` as of any run, and `points.jsonl`, a line for each point that was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.runs.disk import append_bytes, open_journal, read_bytes, write_atomically
from bench.runs.journal import seal, unseal

POINTS_FILE = "points.jsonl"


class NotMeasured(Exception):
    """Of a point there is nothing to write down; the words say why."""


def append_point(folder: Path, record: Mapping[str, Any]) -> None:
    """Add what was measured of a point; when this returns, it is on the disk.

    Raises:
        StoreError: it could not be written.
    """
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    fd = open_journal(folder / POINTS_FILE)
    try:
        append_bytes(fd, folder / POINTS_FILE, seal(body))
    finally:
        os.close(fd)


def read_points(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured, by the point's key; damaged lines are left out, so their points are measured again."""
    bodies = map(unseal, read_bytes(folder / POINTS_FILE).split(b"\n"))
    records = [json.loads(body) for body in bodies if body is not None]
    return {record["key"]: record for record in records}


def drop_damaged_lines(folder: Path) -> None:
    """Take out of the journal what a crash left behind: what is appended must not go on in the midst of a line."""
    data = read_bytes(folder / POINTS_FILE)
    good = b"".join(line + b"\n" for line in data.split(b"\n") if unseal(line) is not None)
    if good != data:
        write_atomically(folder / POINTS_FILE, good)
