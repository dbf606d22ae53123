"""Which batches a run has submitted: a file for each in its folder, written before the batch is submitted.

RUN/batch.LABEL.json    the batch's label, the provider's ids of it, when it was submitted, and the keys of its
                        requests as long as it has not been collected
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.api.batches.contract import Mark
from bench.errors import RunFolderError
from bench.runs.disk import read_bytes, storing, write_json


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch.

    Attributes:
        label: ours of it.
        submitted_at: Unix seconds, taken before it was submitted.
        keys: of its requests, without the label.
        ids: the provider's; none: no word came back, so it may have been taken or not. Several: one of these it is.
        is_collected: nothing more is to be had of it.
    """

    label: str
    submitted_at: float
    keys: Sequence[str]
    ids: Sequence[str] = ()
    is_collected: bool = False

    @property
    def mark(self) -> Mark:
        """How it is known again."""
        return Mark(self.label, self.submitted_at, len(self.keys))


class Book:
    """The batches of a run.

    Args:
        folder: the run's.

    Raises:
        RunFolderError: a file is damaged. Its batch may have been paid for, so nothing is assumed of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches = {batch.label: batch for batch in map(_read, sorted(folder.glob("batch.*.json")))}

    @property
    def open(self) -> list[Batch]:
        """Those that have not been collected, the first submitted first."""
        found = [batch for batch in self._batches.values() if not batch.is_collected]
        return sorted(found, key=lambda batch: batch.submitted_at)

    @property
    def ids(self) -> frozenset[str]:
        """The providers' ids of all."""
        return frozenset(known for batch in self._batches.values() for known in batch.ids)

    def path(self, batch: Batch) -> Path:
        """Its file."""
        return self._folder / f"batch.{batch.label}.json"

    def put(self, batch: Batch) -> None:
        """Write a batch down; when this returns, it is on the disk.

        Raises:
            StoreError: the disk is full.
        """
        write_json(self.path(batch), asdict(batch))
        self._batches[batch.label] = batch

    def strike(self, batch: Batch) -> None:
        """Forget a batch that was never taken."""
        with storing(self.path(batch)):
            self.path(batch).unlink()
        del self._batches[batch.label]


def _read(path: Path) -> Batch:
    try:
        return Batch(**json.loads(read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error}; remove it to submit its batch again, and pay for it again"
        ) from None
