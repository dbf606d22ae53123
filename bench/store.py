"""The run folder: `run.json`, which says what a run is, and `samples.jsonl`, its journal of scores.

    RUN/run.json              replaced atomically; status running → finished or failed; finished is written last
    RUN/samples.jsonl         appended to and synced once a pack while running; sorted into task order at the end
    RUN/samples.rank1.jsonl   the same of another process on this run; goes into samples.jsonl at the end, or when
                              the run goes on
    RUN/.lock                 held by the process that runs; the system releases it however that process ends

So a run may be killed at any moment, and the same command continues it. `results/README.md` documents the schema.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.disk import (
    append_bytes,
    is_held,
    lock_folder,
    make_folder,
    open_journal,
    read_bytes,
    storing,
    write_atomically,
    write_json,
)
from bench.errors import RunFolderError, StoreError
from bench.journal import Journal, encode, merge, parse
from bench.records import Score

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"
LANE_SPEED = "speed"
"""The lane of runs that `bench speed` made: they have measured points and no scores."""

# What a run has only once it has ended; dropped when it goes on.
_ENDING_KEYS = ("metrics", "macro", "groups", "categories", "samples_sha256", "finished_at", "reason", "verify")


def identity(parts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that can change an answer, as canonical JSON: keys sorted, nothing but JSON types."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_name(model_name: str, task: str, scoring: str, num_fewshot: int | None, identity: str) -> str:
    """Name of a run's folder: readable, safe on any file system, different for different identities.

    >>> run_name("HuggingFaceTB/SmolLM2 135M", "pocket", "letter", 5, "1a2b3c4d5e6f")
    'huggingfacetb-smollm2-135m.pocket-letter-5shot.1a2b3c4d'
    """
    shots = "" if num_fewshot is None else f"-{num_fewshot}shot"  # None: not known
    return f"{_safe(model_name)}.{_safe(task)}-{_safe(scoring)}{shots}.{identity[:8]}"


def _safe(text: str) -> str:
    """Lower-case ASCII letters, digits, `.`, `_` and `-`, at most 60 of them, no dots at the ends."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9._]+", "-", ascii_text))
    return text[:60].strip(".-_") or "unnamed"


class RunShare:
    """What one of several processes on a run has of its folder: what is done, and a journal of its own.

    Another process holds the folder, as a `RunFolder`, which is the share of the process that speaks for all. What
    concerns the run as a whole is left to that one: here, all methods but `append`, `keep` and `close` do nothing.

    Attributes:
        path: the folder.
        info: run.json as it stands.
        done: the scores that hold, by sample id; what is here need not be scored again.
        failed: the samples that have an error and no score, by id; they are to be tried again.
    """

    def __init__(self, path: Path, info: dict[str, Any], journal: Journal, file_name: str | None) -> None:
        self.path = path
        self.info = info
        self.done: dict[str, Score] = {}
        self.failed: dict[str, Score] = {}
        self._journal_path = None if file_name is None else path / file_name
        self._journal_fd: int | None = None
        self._take(journal.scores)

    @classmethod
    def join(cls, path: Path, rank: int | None) -> RunShare:
        """Take part in the run that another process has opened; a `rank` of None journals nothing.

        Raises:
            RunFolderError: the folder cannot be read.
        """
        return RunShare(path, _read_info(path), _read_journals(path), None if rank is None else _rank_file(rank))

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended well (samples may have failed, see `failed`)."""
        return bool(self.info["status"] == "finished")

    def append(self, scores: Sequence[Score]) -> None:
        """Add the scores of a pack to the journal; when this returns, they are on the disk.

        Raises:
            StoreError: they could not be written; none of them counts as done.
        """
        if scores and self._journal_path is not None:
            if self._journal_fd is None:
                self._journal_fd = open_journal(self._journal_path)
            append_bytes(self._journal_fd, self._journal_path, b"".join([encode(score) for score in scores]))
        self._take(scores)

    def take_shares(self) -> None:
        """Take in what the other processes on this run have scored."""

    def update(self, changes: Mapping[str, Any]) -> None:
        """Merge `changes` into run.json."""

    def finish(self, order: Sequence[str], results: Mapping[str, Any]) -> None:
        """End the run."""

    def fail(self, reason: str) -> None:
        """Mark the run as failed."""

    def keep(self, name: str, data: bytes) -> None:
        """Write a file of this process's own beside run.json, atomically.

        Raises:
            StoreError: it cannot be written.
        """
        write_atomically(self.path / name, data)

    def close(self) -> None:
        """Close the journal."""
        if self._journal_fd is not None:
            os.close(self._journal_fd)
            self._journal_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, scores: Iterable[Score]) -> None:
        for key, score in merge(scores).items():
            if score.error is None:
                self.done.setdefault(key, score)
                self.failed.pop(key, None)
            elif key not in self.done:
                self.failed[key] = score


class RunFolder(RunShare):
    """A run's folder, held by this process alone until it is closed. Use it as a context manager.

    Attributes:
        info: run.json as it stands; change it through `update`, `finish` and `fail`.
        num_damaged_lines: lines of the journals that were dropped on opening; their samples are scored again.
    """

    def __init__(self, path: Path, lock_fd: int, info: dict[str, Any], journal: Journal) -> None:
        super().__init__(path, info, journal, SAMPLES_FILE)
        self.num_damaged_lines = journal.num_damaged_lines + journal.has_torn_end
        self._lock_fd: int | None = lock_fd

    @classmethod
    def open(cls, root: Path, name: str, identity: str, header: Mapping[str, Any]) -> Self:
        """Open the run folder `root/name`, making it if it is not there, and lock it.

        Args:
            root: the folder of runs.
            name: the run's name, see `run_name`.
            identity: the run's identity, see `identity`; a folder with another one is refused.
            header: what run.json holds from the start; a run that goes on keeps its own.

        Raises:
            RunFolderError: another process holds the folder, it holds another run, or it is damaged.
            StoreError: it cannot be written.
        """
        path = root / name
        make_folder(path)
        lock_fd = lock_folder(path)
        try:
            if any(is_held(file) for file in _rank_files(path)):
                raise RunFolderError(f"{path} is in use by another process, which is about to stop; try again")
            folder = cls(path, lock_fd, *_read_or_start(path, identity, header))
            folder._repair()
        except BaseException:
            os.close(lock_fd)
            raise
        return folder

    def append(self, scores: Sequence[Score]) -> None:
        """Add the scores of a pack to the journal; when this returns, they are on the disk.

        Raises:
            StoreError: they could not be written; none of them counts as done.
        """
        if scores:
            self.go_on()
        super().append(scores)

    def take_shares(self) -> None:
        """Take in what the other processes on this run have scored."""
        files = _rank_files(self.path)
        if files:
            self.go_on()
        for file in files:
            self._take(parse(read_bytes(file)).scores)

    def go_on(self) -> None:
        """Something is to be added: a finished run is one under way again."""
        if self.is_finished:
            self._start_sitting()

    def update(self, changes: Mapping[str, Any]) -> None:
        """Merge `changes` into run.json, nested mappings key by key, and write it atomically."""
        info = _merged(self.info, changes)
        write_json(self.path / RUN_FILE, info)
        self.info = info

    def finish(self, order: Sequence[str], results: Mapping[str, Any]) -> None:
        """End the run: the journal in task order, one line a sample, then run.json with `results`, both atomically.

        Args:
            order: the ids of all samples, in task order; each has a score or an error by now.
            results: what to merge into run.json.
        """
        scores = self.failed | self.done
        if set(order) != set(scores) or len(set(order)) != len(order):
            raise ValueError(f"{self.path}: {len(scores)} samples have a line, {len(order)} are to have one")
        data = b"".join([encode(scores[sample_id]) for sample_id in order])
        self._rewrite(data)
        self.update({**results, "status": "finished", "samples_sha256": _sha256(data)})

    def fail(self, reason: str) -> None:
        """Mark the run as failed, for `reason`.

        A finished run to which nothing was added stays finished. Where the disk refuses even this, the run stays
        marked as running, which is as true.
        """
        if not self.is_finished:
            with contextlib.suppress(StoreError):
                self.update({"status": "failed", "reason": reason})

    def close(self) -> None:
        """Give the folder back."""
        super().close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _repair(self) -> None:
        """Make what a crash left behind good, and count this sitting; a finished run is left untouched."""
        data = read_bytes(self.path / SAMPLES_FILE)
        has_shares = bool(_rank_files(self.path))
        if self.is_finished and not has_shares and _sha256(data) == self.info.get("samples_sha256"):
            return
        self._start_sitting()
        if self.num_damaged_lines:
            self.update({"num_damaged_lines": self.info.get("num_damaged_lines", 0) + self.num_damaged_lines})
        if self.num_damaged_lines or has_shares:
            self._rewrite(b"".join(_read_journals(self.path).lines))

    def _rewrite(self, data: bytes) -> None:
        """Replace the journal by `data`, which holds what is in those of other processes, too."""
        super().close()
        write_atomically(self.path / SAMPLES_FILE, data)
        for file in _rank_files(self.path):
            with storing(file):
                file.unlink()

    def _start_sitting(self) -> None:
        self.info = {key: value for key, value in self.info.items() if key not in _ENDING_KEYS}
        self.update({"status": "running", "num_sittings": self.info.get("num_sittings", 0) + 1})


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
    info = _read_info(path)
    if info.get("lane") == LANE_SPEED:
        raise RunFolderError(f"{path} is a speed run and has no scores; bench show and bench table show what it has")
    is_finished = info.get("status") == "finished"
    journal = _read_journals(path) if with_scores or not is_finished else Journal()
    problems = []
    if journal.num_damaged_lines:
        problems.append(f"{journal.num_damaged_lines} lines of {SAMPLES_FILE} are damaged or were changed by hand")
    if is_finished and _sha256(read_bytes(path / SAMPLES_FILE)) != info.get("samples_sha256"):
        problems.append(f"{SAMPLES_FILE} is not the file that {RUN_FILE} was written with (its SHA-256 differs)")
    return Run(path, info, tuple(merge(journal.scores).values()), tuple(problems))


def read_speed_info(path: Path) -> dict[str, Any] | None:
    """run.json of a speed run's folder; None of other runs' folders.

    Raises:
        RunFolderError: `path` is no run folder, or its run.json is damaged or of another schema.
    """
    info = _read_info(path)
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


def _merged(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**old, **changes}
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            merged[key] = _merged(old[key], value)
    return merged


def _read_or_start(path: Path, identity: str, header: Mapping[str, Any]) -> tuple[dict[str, Any], Journal]:
    """run.json and the journal of the run in a locked folder, or the beginning of one."""
    if not (path / RUN_FILE).exists():
        if (path / SAMPLES_FILE).exists():
            raise RunFolderError(f"{path} holds {SAMPLES_FILE} but no {RUN_FILE}; remove the folder to score it anew")
        return {"schema_version": SCHEMA_VERSION, "status": "running", "identity": identity, **header}, Journal()
    info = _read_info(path)
    if info.get("identity") != identity:
        held = str(info.get("identity"))[:8]
        raise RunFolderError(
            f"{path} holds another run (identity {held}, not {identity[:8]}); remove it or run elsewhere"
        )
    return info, _read_journals(path)


def _read_journals(path: Path) -> Journal:
    """The journals of all processes on a run, one after the other."""
    others = [parse(read_bytes(file)) for file in _rank_files(path)]
    journals = [parse(read_bytes(path / SAMPLES_FILE)), *others]  # read last, since the others' lines go into it
    return Journal(
        lines=tuple(line for journal in journals for line in journal.lines),
        scores=tuple(score for journal in journals for score in journal.scores),
        num_damaged_lines=sum(journal.num_damaged_lines for journal in journals),
        has_torn_end=any(journal.has_torn_end for journal in journals),
    )


def _rank_file(rank: int) -> str:
    """Name of the journal of a process other than the first."""
    return f"samples.rank{rank}.jsonl"


def _rank_files(path: Path) -> list[Path]:
    """The journals of other processes than the first that are in a folder."""
    return sorted(path.glob(_rank_file(0).replace("0", "*")))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_info(path: Path) -> dict[str, Any]:
    """run.json of a run folder."""
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
