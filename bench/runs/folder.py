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
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bench.errors import RunFolderError, StoreError
from bench.records import Score
from bench.runs.disk import (
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
from bench.runs.journal import Journal, encode, merge, parse
from bench.runs.names import RUN_FILE, SAMPLES_FILE, SCHEMA_VERSION, rank_file, rank_files
from bench.runs.reading import read_info, read_journals, sha256

# What a run has only once it has ended; dropped when it goes on.
_ENDING_KEYS = ("metrics", "macro", "groups", "categories", "samples_sha256", "finished_at", "reason", "verify")


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
        return RunShare(path, read_info(path), read_journals(path), None if rank is None else rank_file(rank))

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
            if any(is_held(file) for file in rank_files(path)):
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
        files = rank_files(self.path)
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
        self.update({**results, "status": "finished", "samples_sha256": sha256(data)})

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
        has_shares = bool(rank_files(self.path))
        if self.is_finished and not has_shares and sha256(data) == self.info.get("samples_sha256"):
            return
        self._start_sitting()
        if self.num_damaged_lines:
            self.update({"num_damaged_lines": self.info.get("num_damaged_lines", 0) + self.num_damaged_lines})
        if self.num_damaged_lines or has_shares:
            self._rewrite(b"".join(read_journals(self.path).lines))

    def _rewrite(self, data: bytes) -> None:
        """Replace the journal by `data`, which holds what is in those of other processes, too."""
        super().close()
        write_atomically(self.path / SAMPLES_FILE, data)
        for file in rank_files(self.path):
            with storing(file):
                file.unlink()

    def _start_sitting(self) -> None:
        self.info = {key: value for key, value in self.info.items() if key not in _ENDING_KEYS}
        self.update({"status": "running", "num_sittings": self.info.get("num_sittings", 0) + 1})


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
    info = read_info(path)
    if info.get("identity") != identity:
        held = str(info.get("identity"))[:8]
        raise RunFolderError(
            f"{path} holds another run (identity {held}, not {identity[:8]}); remove it or run elsewhere"
        )
    return info, read_journals(path)
