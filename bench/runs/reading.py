"""Reads run folders, by anyone, at any time: while they run, once they have finished, or whatever became of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RunFolderError
from bench.records import Score
from bench.runs.disk import read_bytes
from bench.runs.journal import Journal, merge, parse
from bench.runs.names import LANE_SPEED, RUN_FILE, SAMPLES_FILE, SCHEMA_VERSION, rank_files


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as read, by anyone, at any time.

    Attributes:
        path: the folder.
        info: run.json.
        scores: one a sample; in task order once the run has finished.
        problems: what does not hold in the folder, each in one line; empty for a sound run.
    """

    path: Path
    info: dict[str, Any]
    scores: tuple[Score, ...]
    problems: tuple[str, ...]


def read_run(path: Path, *, with_scores: bool = True) -> Run:
    """Read a run folder.

    Args:
        path: the folder.
        with_scores: False leaves the scores of a finished run unread, which is all a table needs.

    Raises:
        RunFolderError: `path` is no run folder, or a speed run's, or its run.json is damaged or of another schema.
    """
    info = read_info(path)
    if info.get("lane") == LANE_SPEED:
        raise RunFolderError(f"{path} is a speed run and has no scores; bench show and bench table show what it has")
    is_finished = info.get("status") == "finished"
    journal = read_journals(path) if with_scores or not is_finished else Journal()
    problems = []
    if journal.num_damaged_lines:
        problems.append(f"{journal.num_damaged_lines} lines of {SAMPLES_FILE} are damaged or were changed by hand")
    if is_finished and sha256(read_bytes(path / SAMPLES_FILE)) != info.get("samples_sha256"):
        problems.append(f"{SAMPLES_FILE} is not the file that {RUN_FILE} was written with (its SHA-256 differs)")
    return Run(path, info, tuple(merge(journal.scores).values()), tuple(problems))


def read_speed_info(path: Path) -> dict[str, Any] | None:
    """run.json of a speed run's folder; None of other runs' folders.

    Raises:
        RunFolderError: `path` is no run folder, or its run.json is damaged or of another schema.
    """
    info = read_info(path)
    return info if info.get("lane") == LANE_SPEED else None


def find_scored_runs(paths: Iterable[Path]) -> list[Path]:
    """The same as `find_runs` without the speed runs in folders of runs.

    Raises:
        RunFolderError: a path is neither a run folder nor a folder of some, or none of them has scores.
    """
    given = list(paths)
    found = [path for path in find_runs(given) if path in given or read_speed_info(path) is None]
    if not found:
        raise RunFolderError(f"{', '.join(map(str, given))}: only speed runs, which have no scores")
    return found


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among `paths`, each a run folder or a folder of run folders; in order, each once.

    Raises:
        RunFolderError: a path is neither.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise RunFolderError(f"{path} is no folder; give a run folder or a folder of run folders")
        inside = [path] if (path / RUN_FILE).is_file() else sorted(file.parent for file in path.glob(f"*/{RUN_FILE}"))
        if not inside:
            raise RunFolderError(f"{path} holds no run: neither {RUN_FILE} nor folders with one")
        found.update(dict.fromkeys(inside))
    return list(found)


def read_journals(path: Path) -> Journal:
    """The journals of all processes on a run, one after the other."""
    others = [parse(read_bytes(file)) for file in rank_files(path)]
    journals = [parse(read_bytes(path / SAMPLES_FILE)), *others]  # read last, since the others' lines go into it
    return Journal(
        lines=tuple(line for journal in journals for line in journal.lines),
        scores=tuple(score for journal in journals for score in journal.scores),
        num_damaged_lines=sum(journal.num_damaged_lines for journal in journals),
        has_torn_end=any(journal.has_torn_end for journal in journals),
    )


def sha256(data: bytes) -> str:
    """What run.json holds of a finished journal."""
    return hashlib.sha256(data).hexdigest()


def read_info(path: Path) -> dict[str, Any]:
    """run.json of a run folder.

    Raises:
        RunFolderError: `path` is no run folder, or its run.json is damaged or of another schema.
    """
    file = path / RUN_FILE
    if not file.is_file():
        raise RunFolderError(f"{path} is no run folder: there is no {RUN_FILE} in it")
    try:
        info = json.loads(read_bytes(file))
    except ValueError as error:
        raise RunFolderError(f"{file} is damaged: {error}; remove the folder to score the run anew") from error
    if not isinstance(info, dict):
        raise RunFolderError(f"{file} is damaged: it holds no JSON object")
    version = info.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunFolderError(f"{file} has schema_version {version!r}; this Steelyard reads {SCHEMA_VERSION} only")
    return info
